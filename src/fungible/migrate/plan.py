"""May this candidate start, and what would it have to show? Nothing is changed here."""

from collections.abc import Iterable

import msgspec

from fungible.config import BackendSettings, Config, MigrationPolicy, RouteSettings, binding_of
from fungible.contract.events import VerdictEvent
from fungible.errors import InputError, UnknownModelError
from fungible.migrate.eprocess import pairs_needed
from fungible.routing.admission import admissible
from fungible.routing.table import Admission


class MigrationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration would do.

    Attributes:
        refusal: Why it may not start, with the verdict's own reasons; `None` if it may.
        admission: What would let the candidate serve; `None` for the route's reference.
        shadow_pairs: Pairs that a candidate without a single failure needs in shadow.
        canary_pairs: The same for the canary, all steps together.
    """

    model: str
    candidate: str
    reference: str
    binding: str
    refusal: str | None
    hint: str = ""
    admission: Admission | None = None
    policy: MigrationPolicy
    shadow_pairs: int
    canary_pairs: int


def plan_migration(
    config: Config,
    verdicts: Iterable[VerdictEvent],
    *,
    model: str,
    candidate: str,
    now_ns: int,
) -> MigrationPlan:
    """Judge the candidate by the verdicts on record.

    `verdicts` are all that are on record for the model and candidate, in any order; those for
    another binding do not count.

    Raises:
        UnknownModelError: No route has this name.
        InputError: The route does not list the candidate.
    """
    route, settings = _look_up(config, model, candidate)
    binding = binding_of(candidate, settings)
    refusal, hint, admission = None, "", None
    if candidate != route.reference:
        refusal, hint, admission = _admit(
            config, list(verdicts), model=model, candidate=candidate, now_ns=now_ns
        )
    policy = config.migration
    return MigrationPlan(
        model=model,
        candidate=candidate,
        reference=route.reference,
        binding=binding,
        refusal=refusal,
        hint=hint,
        admission=admission,
        policy=policy,
        shadow_pairs=max(
            policy.shadow_min_pairs, pairs_needed(policy.shadow_margin, policy.promote_at)
        ),
        canary_pairs=pairs_needed(policy.canary_margin, policy.promote_at),
    )


def _look_up(config: Config, model: str, candidate: str) -> tuple[RouteSettings, BackendSettings]:
    if model not in config.route:
        known = ", ".join(sorted(config.route)) or "none"
        raise UnknownModelError(
            f"no route serves {model!r}", hint=f"routes: {known}", param="model"
        )
    route = config.route[model]
    listed = {route.reference, *route.backends, *route.weights}
    if candidate not in listed:
        raise InputError(
            f"route {model!r} does not list the backend {candidate!r}",
            hint=f"it lists {', '.join(sorted(listed))}; add it to route.{model}.backends",
            param="candidate",
        )
    return route, config.backend[candidate]


def _admit(
    config: Config, verdicts: list[VerdictEvent], *, model: str, candidate: str, now_ns: int
) -> tuple[str | None, str, Admission | None]:
    """(refusal, hint, admission): the newest unexpired verdict of every suite must pass."""
    settings = config.backend[candidate]
    reference = config.route[model].reference
    reference_binding = binding_of(reference, config.backend[reference])
    again = f"run `fungible eval run` and `eval gate` for {candidate}"
    exact = [
        verdict
        for verdict in verdicts
        if verdict.model == model
        and verdict.binding == binding_of(candidate, settings)
        and verdict.reference_binding == reference_binding
    ]
    newest = _newest_by_suite(exact)
    valid = [verdict for verdict in newest if verdict.expires_ns > now_ns]
    if not valid:
        return _why_none(candidate, verdicts, newest), again, None
    for verdict in valid:
        if verdict.outcome != "pass":
            said = "; ".join(verdict.reasons) or "no reason recorded"
            where = f"verdict {verdict.verdict_id} on suite {verdict.suite!r}"
            hint = "choose another variant or target of the artifact, and run its suite"
            return f"{where} is {verdict.outcome}: {said}", hint, None
    first_out = min(valid, key=lambda verdict: verdict.expires_ns)
    admission = Admission(
        verdict_id=first_out.verdict_id, binding=first_out.binding, expires_ns=first_out.expires_ns
    )
    return admissible(candidate, settings, admission, now_ns), again, admission


def _newest_by_suite(verdicts: list[VerdictEvent]) -> list[VerdictEvent]:
    newest = {
        verdict.suite: verdict for verdict in sorted(verdicts, key=lambda item: item.decided_ns)
    }
    return list(newest.values())


def _why_none(candidate: str, verdicts: list[VerdictEvent], expired: list[VerdictEvent]) -> str:
    if expired:
        last = max(expired, key=lambda item: item.decided_ns)
        return f"verdict {last.verdict_id} of {candidate} ({last.outcome}) has expired"
    if verdicts:
        return (
            f"{candidate} has verdicts, but none for exactly this artifact, variant, target and "
            "engine configuration against this reference"
        )
    return f"{candidate} has no verdict"
