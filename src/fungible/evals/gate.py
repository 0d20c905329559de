"""Whether quality held: one verdict from paired results, with every number behind it."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from fungible.contract.events import Outcome, VerdictEvent
from fungible.contract.ids import new_id
from fungible.evals import stats
from fungible.evals.distance import Distance, Pair, measure
from fungible.evals.plan import DAY_NS, Plan
from fungible.evals.results import ItemResult, pair

__all__ = ["Plan", "decide"]


class _Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The primary comparison: counts, scores and the bounds of the loss."""

    items: int
    reference_score: float
    candidate_score: float
    lost: int
    gained: int
    discordance: float
    loss_lower: float
    loss_upper: float
    metrics: dict[str, float]


_NOTHING = _Paired(
    items=0,
    reference_score=0.0,
    candidate_score=0.0,
    lost=0,
    gained=0,
    discordance=0.0,
    loss_lower=-1.0,
    loss_upper=1.0,
    metrics={},
)


def decide(
    plan: Plan,
    *,
    model: str,
    candidate: str,
    reference: str,
    bindings: Mapping[str, str],
    reference_results: Sequence[ItemResult],
    reference_again: Sequence[ItemResult] | None,
    candidate_results: Sequence[ItemResult],
    now_ns: int,
) -> VerdictEvent:
    """The verdict on `candidate`.

    `refused`: the data cannot answer the question. `fail`: the loss is larger than the
    margin, or a distance check is out of its limit. `inconclusive`: the loss may be either
    side of the margin. `pass`: its upper bound is below the margin and nothing else spoke.

    Args:
        plan: Fixed before the run.
        model: What applications ask for.
        candidate: Backend under test.
        reference: Backend it is judged against.
        bindings: `binding_of` of both backends, by name.
        reference_results: The reference's first run.
        reference_again: Its second run, the A/A floor; `None` takes the floor as 0.
        candidate_results: The candidate's run.
        now_ns: Time of the decision.
    """
    pairs = pair(reference_results, candidate_results)
    floor_pairs = pair(reference_results, reference_again) if reference_again else []
    scores = _compare(plan, pairs) if pairs else _NOTHING
    outcome, reasons, metrics = _judge(
        plan,
        scores,
        measure(pairs) if pairs else None,
        measure(floor_pairs) if floor_pairs else None,
        _errors(reference_results, candidate_results),
    )
    return VerdictEvent(
        verdict_id=new_id("ver_"),
        model=model,
        suite=plan.suite,
        suite_hash=plan.suite_hash,
        plan_hash=plan.plan_hash(),
        candidate=candidate,
        reference=reference,
        binding=bindings[candidate],
        reference_binding=bindings[reference],
        outcome=outcome,
        items=scores.items,
        reference_score=scores.reference_score,
        candidate_score=scores.candidate_score,
        margin=plan.margin,
        loss_upper=scores.loss_upper,
        reasons=reasons,
        metrics=scores.metrics | metrics,
        decided_ns=now_ns,
        expires_ns=now_ns + int(plan.valid_days * DAY_NS),
    )


def _judge(
    plan: Plan,
    scores: _Paired,
    distance: Distance | None,
    aa: Distance | None,
    errors: dict[str, float],
) -> tuple[Outcome, list[str], dict[str, float]]:
    """Outcome, reasons, and the numbers that are not in `scores`."""
    refusals = _refusals(plan, scores, errors)
    if distance is None:
        return "refused", refusals, errors
    metrics = errors | _distance_metrics(distance, aa)
    refusals += _blind(plan, distance, aa)
    if refusals:
        return "refused", refusals, metrics
    failures = _distance_failures(plan, distance, aa)
    if scores.loss_lower > plan.margin:
        failures.insert(0, f"{_loss(scores)}: more than the margin of {_points(plan.margin)}")
    if failures:
        return "fail", failures, metrics
    if scores.loss_upper >= plan.margin:
        return "inconclusive", [_inconclusive(plan, scores)], metrics
    return "pass", [], metrics


def _compare(plan: Plan, pairs: Sequence[Pair]) -> _Paired:
    """Scores, counts and bounds: Tango for binary items, else the bootstrap."""
    n = len(pairs)
    before = [a.score or 0.0 for a, _ in pairs]
    after = [b.score or 0.0 for _, b in pairs]
    losses = [a - b for a, b in zip(before, after, strict=True)]
    lost, gained = sum(loss >= 0.5 for loss in losses), sum(loss <= -0.5 for loss in losses)
    binary = all(score in (0.0, 1.0) for score in (*before, *after))
    clusters = [a.cluster or a.item_id for a, _ in pairs]
    sampled = plan.random_clusters <= len(set(clusters)) < n
    if binary and not sampled:
        low, high = stats.tango_interval(lost, gained, n, plan.alpha)
    else:
        units = clusters if sampled else [a.item_id for a, _ in pairs]
        low, high = stats.bootstrap_interval(losses, units, plan.alpha)
    changed = sum(abs(loss) > 1e-9 for loss in losses) / n
    metrics = {
        "lost": float(lost),
        "gained": float(gained),
        "discordance": changed,
        "loss": math.fsum(losses) / n,
        "loss_lower": low,
        "loss_upper": high,
        "clusters": float(len(set(clusters))),
        "clusters_drawn_whole": float(sampled),
        "mcnemar_midp": stats.mcnemar_midp(lost, gained),
        "detectable_loss": stats.detectable_loss(n, max(changed, 0.02), alpha=plan.alpha),
    }
    if binary:
        right = int(sum(before))
        table = (right - lost, lost, gained, n - right - gained)
        newcombe = stats.newcombe_interval(*table, 2 * plan.alpha)
        metrics |= {
            "tango_p": stats.tango_p(lost, gained, n, plan.margin),
            "newcombe_lower": newcombe[0],
            "newcombe_upper": newcombe[1],
        }
    return _Paired(
        items=n,
        reference_score=math.fsum(before) / n,
        candidate_score=math.fsum(after) / n,
        lost=lost,
        gained=gained,
        discordance=changed,
        loss_lower=low,
        loss_upper=high,
        metrics=metrics,
    )


def _errors(reference: Sequence[ItemResult], candidate: Sequence[ItemResult]) -> dict[str, float]:
    """Shares of items without a score; an item that one side lacks is an error of that side."""
    asked = {result.item_id for result in (*reference, *candidate)}
    total = max(1, len(asked))

    def missing(results: Sequence[ItemResult]) -> float:
        return 1.0 - sum(result.score is not None for result in results) / total

    return {"reference_errors": missing(reference), "candidate_errors": missing(candidate)}


def _distance_metrics(distance: Distance, aa: Distance | None) -> dict[str, float]:
    def numbers(one: Distance, suffix: str) -> dict[str, float]:
        return {
            f"{name}{suffix}": float(value) for name, value in msgspec.structs.asdict(one).items()
        }

    return (
        numbers(distance, "")
        | (numbers(aa, "_aa") if aa else {})
        | {"aa_measured": float(bool(aa))}
    )


def _refusals(plan: Plan, scores: _Paired, errors: Mapping[str, float]) -> list[str]:
    """Why the results cannot be judged at all."""
    found = []
    for side in ("reference", "candidate"):
        share = errors[f"{side}_errors"]
        if share > plan.max_error_rate:
            found.append(
                f"{share:.1%} of the {side}'s requests failed (limit {plan.max_error_rate:.1%}): "
                "errors are not answers, so quality was not measured"
            )
    if scores.items < plan.min_items:
        found.append(f"{scores.items} answered pairs; at least {plan.min_items} are needed")
    if not scores.items:
        return found
    score = scores.reference_score
    if score < plan.floor:
        found.append(
            f"the reference scores {score:.1%}, below {plan.floor:.0%}: "
            "it is at the floor, so this suite cannot see a loss"
        )
    if score > plan.ceiling:
        found.append(
            f"the reference scores {score:.1%}, above {plan.ceiling:.0%}: "
            "it is at the ceiling, so this suite is too easy to see a loss"
        )
    return found


def _blind(plan: Plan, distance: Distance, aa: Distance | None) -> list[str]:
    """Why the distance checks cannot be trusted."""
    found = []
    if aa and aa.flips > plan.margin / 2:
        found.append(
            f"the reference disagrees with itself on {aa.flips:.1%} of items, more than half the "
            f"margin of {_points(plan.margin)}: make it deterministic before judging others by it"
        )
    if plan.need_logprobs and not distance.positions:
        found.append(
            "no log-probabilities came back from both backends, so the distance of their "
            "distributions was not measured"
        )
    return found


def _distance_failures(plan: Plan, distance: Distance, aa: Distance | None) -> list[str]:
    """One sentence for each distance beyond its limit."""
    flips, kl, p99 = (aa.flips, aa.kl_mean, aa.kl_p99) if aa else (0.0, 0.0, 0.0)
    found = []
    if distance.flips - flips > plan.max_excess_flips + 1e-12:
        found.append(
            f"{distance.flips:.1%} of items changed between right and wrong, {flips:.1%} when the "
            f"reference is run twice: an excess above {plan.max_excess_flips:.1%}"
        )
    if distance.kl_mean - kl > plan.max_excess_kl:
        found.append(
            f"mean KL divergence is at least {distance.kl_mean:.3f} nats per token, {kl:.3f} when "
            f"the reference is run twice: an excess above {plan.max_excess_kl}"
        )
    if distance.kl_p99 - p99 > plan.max_excess_kl_p99:
        found.append(
            f"the 99th percentile of KL divergence is at least {distance.kl_p99:.2f} nats, "
            f"{p99:.2f} when the reference is run twice: an excess above {plan.max_excess_kl_p99}"
        )
    if not plan.length_low <= distance.length_ratio <= plan.length_high:
        found.append(
            f"answers have {distance.length_ratio:.2f} times the reference's tokens, outside "
            f"{plan.length_low} to {plan.length_high}"
        )
    for name, excess, limit in (
        ("empty", distance.empty, plan.max_excess_empty),
        ("cut by max_tokens", distance.truncated, plan.max_excess_truncated),
    ):
        if excess > limit:
            found.append(f"{excess:.1%} more answers are {name} (limit {limit:.0%})")
    return found


def _inconclusive(plan: Plan, scores: _Paired) -> str:
    observed = scores.reference_score - scores.candidate_score
    said = f"{_loss(scores)}, and the margin of {_points(plan.margin)} lies within that doubt"
    discordance = max(scores.discordance, abs(observed), 1 / scores.items)
    if observed >= plan.margin:
        return f"{said}: more items would sooner show a loss than a pass"
    needed = stats.items_needed(plan.margin, discordance, loss=max(observed, 0.0), alpha=plan.alpha)
    more = max(needed - scores.items, math.ceil(scores.items * 0.1))
    return f"{said}: about {more} more items would decide it"


def _loss(scores: _Paired) -> str:
    observed = scores.reference_score - scores.candidate_score
    return (
        f"the loss is {_points(observed)} (lost {scores.lost}, gained {scores.gained} of "
        f"{scores.items}), between {_points(scores.loss_lower)} and {_points(scores.loss_upper)}"
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
