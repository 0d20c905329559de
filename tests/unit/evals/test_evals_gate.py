import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fungible.contract.events import VerdictEvent
from fungible.contract.openai import TokenLogprob, TopLogprob
from fungible.evals.gate import decide
from fungible.evals.plan import Plan, plan_for
from fungible.evals.results import ItemResult
from fungible.evals.suite import load_suite

PLAN = plan_for(load_suite("everyday"))
NOW = 1_800_000_000_000_000_000


def tokens(p: float = 0.7, count: int = 4) -> list[TokenLogprob]:
    """Tokens whose first choice has probability `p` and whose second has the rest."""
    top = [
        TopLogprob(token="a", logprob=math.log(p)),
        TopLogprob(token="b", logprob=math.log(1 - p)),
    ]
    return [TokenLogprob(token="a", logprob=math.log(p), top_logprobs=top)] * count


def results(score: Callable[[int], float | None], n: int = 240, **fields: Any) -> list[ItemResult]:
    defaults = {"output_hash": "same", "output_tokens": 4, "tokens": tokens()}
    return [
        ItemResult(item_id=str(at), cluster=str(at % 10), score=score(at), **(defaults | fields))
        for at in range(n)
    ]


def two_of_three(at: int) -> float:
    return float(at % 3 != 0)


def verdict(
    candidate: list[ItemResult],
    reference: list[ItemResult] | None = None,
    again: list[ItemResult] | None = None,
    plan: Plan = PLAN,
) -> VerdictEvent:
    reference = results(two_of_three) if reference is None else reference
    return decide(
        plan,
        model="m",
        candidate="new",
        reference="old",
        bindings={"new": "b-new", "old": "b-old"},
        reference_results=reference,
        reference_again=reference if again is None else again,
        candidate_results=candidate,
        now_ns=NOW,
    )


def test_identical_passes_and_says_what_it_speaks_for() -> None:
    held = verdict(results(two_of_three))
    assert (held.outcome, held.reasons, held.items) == ("pass", [], 240)
    assert (held.binding, held.reference_binding) == ("b-new", "b-old")
    assert (held.suite_hash, held.plan_hash) == (PLAN.suite_hash, PLAN.plan_hash())
    assert held.reference_score == held.candidate_score == pytest.approx(2 / 3)
    assert held.loss_upper == pytest.approx(0.0111, abs=1e-3)
    assert held.expires_ns - NOW == 30 * 86_400 * 10**9
    assert all(math.isfinite(value) for value in held.metrics.values())


def test_equal_accuracy_with_many_flips_fails_for_the_flips() -> None:
    """30 lost, 30 gained: accuracy is the same, and the significance test sees nothing."""
    lost = [at for at in range(240) if at % 3][:30]
    gained = [at for at in range(240) if at % 3 == 0][:30]
    flipped = {*lost, *gained}
    candidate = results(lambda at: two_of_three(at) if at not in flipped else 1 - two_of_three(at))
    broken = verdict(candidate)
    assert broken.candidate_score == broken.reference_score
    assert broken.metrics["mcnemar_midp"] > 0.8
    assert broken.outcome == "fail"
    assert any("25.0% of items changed between right and wrong" in why for why in broken.reasons)


def test_equal_accuracy_with_another_distribution_fails_for_the_divergence() -> None:
    broken = verdict(results(two_of_three, tokens=tokens(0.2)))
    assert broken.outcome == "fail"
    assert len(broken.reasons) == 1
    divergence = 0.7 * math.log(0.7 / 0.2) + 0.3 * math.log(0.3 / 0.8)
    assert f"at least {divergence:.3f} nats" in broken.reasons[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_tokens": 5}, "1.25 times the reference's tokens"),
        ({"output_tokens": 3}, "0.75 times"),
        ({"finish_reason": "length"}, "100.0% more answers are cut by max_tokens"),
    ],
)
def test_shape_of_answers_counts(changes: dict[str, Any], said: str) -> None:
    broken = verdict(results(two_of_three, **changes))
    assert broken.outcome == "fail"
    assert said in broken.reasons[0]


def test_empty_answers_fail() -> None:
    candidate = [
        msgspec.structs.replace(one, output_tokens=0, tokens=[]) if int(one.item_id) < 8 else one
        for one in results(two_of_three)
    ]
    assert any("more answers are empty" in why for why in verdict(candidate).reasons)


def test_a_large_loss_fails_with_its_bounds() -> None:
    worse = verdict(results(lambda at: float(at % 3 != 0 and at % 4 != 0)))
    assert worse.outcome == "fail"
    assert "more than the margin of 5.0 points" in worse.reasons[0]
    assert f"lost {int(worse.metrics['lost'])}" in worse.reasons[0]


def test_a_loss_within_the_doubt_is_inconclusive_and_asks_for_items() -> None:
    lost = {1, 2, 4, 5, 7, 8, 10, 11}
    unsure = verdict(results(lambda at: 0.0 if at in lost else two_of_three(at)))
    assert unsure.outcome == "inconclusive"
    assert unsure.loss_upper > PLAN.margin > unsure.metrics["loss_lower"]
    assert "more items would decide it" in unsure.reasons[0]


def test_the_reference_s_own_noise_is_not_held_against_the_candidate() -> None:
    noisy, gained = {1, 2, 4, 5}, {at for at in range(240) if at % 3 == 0}
    moved = {*sorted(gained)[:10], *[at for at in range(240) if at % 3][:11]}
    candidate = results(lambda at: two_of_three(at) if at not in moved else 1 - two_of_three(at))
    again = results(lambda at: 0.0 if at in noisy else two_of_three(at))
    strict = verdict(candidate)
    lenient = verdict(candidate, again=again)
    assert any("changed between right and wrong" in why for why in strict.reasons)
    assert not any("changed between right and wrong" in why for why in lenient.reasons)
    assert lenient.metrics["flips_aa"] == pytest.approx(4 / 240)


def test_a_reference_that_disagrees_with_itself_is_refused() -> None:
    again = results(lambda at: 0.0 if at < 20 else two_of_three(at))
    blind = verdict(results(two_of_three), again=again)
    assert blind.outcome == "refused"
    assert "the reference disagrees with itself" in blind.reasons[0]


@pytest.mark.parametrize(
    ("score", "n", "said"),
    [
        (two_of_three, 29, "29 answered pairs; at least 30"),
        (lambda at: float(at % 20 == 0), 240, "it is at the floor"),
        (lambda _: 1.0, 240, "it is at the ceiling"),
        (lambda at: None if at < 6 else two_of_three(at), 240, "2.5% of the reference's requests"),
        (lambda _: None, 240, "100.0% of the reference's requests failed"),
    ],
)
def test_results_that_cannot_answer_the_question_are_refused(
    score: Callable[[int], float | None], n: int, said: str
) -> None:
    refused = verdict(results(score, n), reference=results(score, n))
    assert refused.outcome == "refused"
    assert any(said in why for why in refused.reasons)


def test_without_any_results_it_is_refused() -> None:
    refused = verdict([], reference=[])
    assert (refused.outcome, refused.items) == ("refused", 0)
    assert refused.reasons


def test_items_that_one_side_lacks_are_its_errors() -> None:
    refused = verdict(results(two_of_three)[:200])
    assert refused.outcome == "refused"
    assert "16.7% of the candidate's requests failed" in refused.reasons[0]


def test_without_logprobs_it_is_refused_unless_the_plan_does_without() -> None:
    bare = results(two_of_three, tokens=[])
    assert "no log-probabilities" in verdict(bare, reference=bare).reasons[0]
    plan = msgspec.structs.replace(PLAN, need_logprobs=False)
    assert verdict(bare, reference=bare, plan=plan).outcome == "pass"


def test_many_clusters_are_drawn_whole() -> None:
    """Losses that come in whole conversations leave more doubt than as many single ones."""

    def clustered(size: int) -> VerdictEvent:
        def grouped(score: Callable[[int], float]) -> list[ItemResult]:
            return [
                msgspec.structs.replace(one, cluster=str(int(one.item_id) // size))
                for one in results(score)
            ]

        reference = grouped(lambda _: 0.9)
        candidate = grouped(lambda at: 0.75 if at // 6 % 5 == 0 else 0.9)
        return verdict(candidate, reference=reference)

    together, single = clustered(6), clustered(1)
    assert together.metrics["clusters_drawn_whole"] == 1
    assert single.metrics["clusters_drawn_whole"] == 0
    assert together.loss_upper > single.loss_upper


def test_every_threshold_is_in_the_plan_s_hash() -> None:
    hashes = {PLAN.plan_hash()}
    for name, value in msgspec.structs.asdict(PLAN).items():
        changed = f"{value}x" if isinstance(value, str) else value + 1
        hashes.add(msgspec.structs.replace(PLAN, **{name: changed}).plan_hash())
    assert len(hashes) == len(msgspec.structs.fields(Plan)) + 1
