"""Whether a migration moves: pure, from the evidence and the policy fixed at its start."""

from fungible.migrate.observations import Assessment
from fungible.migrate.states import Migration, Transition


def decide(
    migration: Migration, seen: Assessment, *, now_ns: int, refusal: str | None = None
) -> Transition | None:
    """The edge to take now, or `None` to keep watching.

    Doubt goes back: what turns a migration back is looked at before what moves it on, and a
    stage that reaches its horizon without a decision is rolled back.

    Args:
        migration: In state `shadow` or `canary`.
        seen: The evidence of its stage.
        now_ns: Unix time in nanoseconds.
        refusal: Why the candidate is no longer admitted, if it is not.
    """
    back = _why_back(migration, seen, refusal)
    if back is None:
        on = _way_on(migration, seen)
        if on is not None:
            return on
        back = _horizon(migration, seen, now_ns)
    if back is None:
        return None
    return Transition(
        to="rolled_back", reason=back, step=migration.step, evidence=dict(seen.evidence)
    )


def _why_back(migration: Migration, seen: Assessment, refusal: str | None) -> str | None:
    policy = migration.policy
    if refusal is not None:
        return f"no longer admitted: {refusal}"
    if seen.failures_in_row >= policy.trip_after:
        return f"the candidate failed {seen.failures_in_row} times in a row"
    if seen.test.e_rollback >= policy.rollback_at:
        return (
            f"online health is worse by more than {seen.test.margin:g}: "
            f"E2 = {seen.test.e_rollback:.3g} >= {policy.rollback_at:g} "
            f"after {seen.test.pairs} pairs"
        )
    return None


def _way_on(migration: Migration, seen: Assessment) -> Transition | None:
    policy, test = migration.policy, seen.test
    held = test.e_promote >= policy.promote_at
    numbers = f"E1 = {test.e_promote:.3g} after {test.pairs} pairs, margin {test.margin:g}"
    if migration.state == "shadow":
        if not held or test.pairs < policy.shadow_min_pairs:
            return None
        share = policy.canary_steps[0]
        return Transition(
            to="canary",
            reason=f"held in shadow: {numbers}; {share:.0%} of traffic",
            evidence=dict(seen.evidence),
        )
    if seen.step_attempts < policy.canary_min_attempts:
        return None
    step = migration.step + 1
    if step == len(policy.canary_steps):
        if not held:
            return None
        return Transition(
            to="promoted",
            step=migration.step,
            reason=f"held on real traffic: {numbers}",
            evidence=dict(seen.evidence),
        )
    # One e-process runs through all steps, so a step needs no threshold of its own: it goes on
    # as long as the bets against the candidate are the ones that lose.
    if test.e_promote < 1.0:
        return None
    return Transition(
        to="canary",
        step=step,
        reason=f"holds so far: {numbers}; {policy.canary_steps[step]:.0%} of traffic",
        evidence=dict(seen.evidence),
    )


def _horizon(migration: Migration, seen: Assessment, now_ns: int) -> str | None:
    policy = migration.policy
    undecided = f"inconclusive: E1 = {seen.test.e_promote:.3g}, E2 = {seen.test.e_rollback:.3g}"
    if seen.test.pairs >= policy.max_pairs:
        return f"{undecided} after {seen.test.pairs} pairs, the most the policy allows"
    if now_ns - migration.stage_ns > policy.max_stage_s * 1e9:
        return f"{undecided} after {policy.max_stage_s:g} s, the longest the policy allows"
    return None
