"""The states of a migration and the edges between them.

::

    requested ─▶ gated ─▶ shadow ─▶ canary (one step after the other) ─▶ promoted
        │          └────────┴──────────┴─▶ rolled_back
        └─▶ refused
"""

from typing import Literal

import msgspec

from fungible.config import MigrationPolicy
from fungible.contract.events import MigrationEvent
from fungible.migrate.eprocess import BoundaryTest
from fungible.routing.table import Route

State = Literal["requested", "gated", "shadow", "canary", "promoted", "refused", "rolled_back"]
ACTIVE: frozenset[State] = frozenset({"gated", "shadow", "canary"})
EDGES: dict[State, frozenset[State]] = {
    "requested": frozenset({"gated", "refused"}),
    "gated": frozenset({"shadow", "rolled_back"}),
    "shadow": frozenset({"canary", "rolled_back"}),
    "canary": frozenset({"canary", "promoted", "rolled_back"}),
    "promoted": frozenset(),
    "refused": frozenset(),
    "rolled_back": frozenset(),
}


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One edge to take, why, and the numbers that say so. `step` counts canary steps from 0."""

    to: State
    reason: str
    step: int = 0
    evidence: dict[str, float] = {}


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate on its way to one model's traffic: everything a restart needs.

    Attributes:
        binding: What the verdict speaks for; see `fungible.config.binding_of`.
        stage_ns: When the state began; attempts that started earlier do not count.
        step_ns: When the canary step began.
        test: Both e-processes as of the last look.
        before: The model's route before the migration; rollback restores it.
        route: The model's route as this migration last activated it.
    """

    migration_id: str
    model: str
    candidate: str
    reference: str
    binding: str
    policy: MigrationPolicy
    created_ns: int
    updated_ns: int
    state: State = "requested"
    step: int = 0
    stage_ns: int = 0
    step_ns: int = 0
    verdict_id: str = ""
    route_version: int = 0
    reason: str = ""
    evidence: dict[str, float] = {}
    test: BoundaryTest | None = None
    before: Route | None = None
    route: Route | None = None

    @property
    def active(self) -> bool:
        """Whether it still moves."""
        return self.state in ACTIVE

    @property
    def weight(self) -> float:
        """The candidate's share of real traffic."""
        if self.state == "promoted":
            return 1.0
        return self.policy.canary_steps[self.step] if self.state == "canary" else 0.0

    @property
    def incumbents(self) -> list[str]:
        """Who answered before the migration: the candidate is paired with them."""
        weights = self.before.weights if self.before else {}
        return [name for name, weight in weights.items() if weight > 0 and name != self.candidate]

    def take(self, transition: Transition, now_ns: int) -> "Migration":
        """The migration after `transition`.

        Raises:
            ValueError: The state machine has no such edge.
        """
        if transition.to not in EDGES[self.state]:
            raise ValueError(f"a migration cannot go from {self.state} to {transition.to}")
        same_stage = transition.to == self.state
        return msgspec.structs.replace(
            self,
            state=transition.to,
            step=transition.step,
            stage_ns=self.stage_ns if same_stage else now_ns,
            step_ns=now_ns,
            updated_ns=now_ns,
            reason=transition.reason,
            evidence=transition.evidence,
            test=self.test if same_stage or transition.to not in ACTIVE else None,
        )

    def event(self, previous: "Migration") -> MigrationEvent:
        """The ledger's row of the edge from `previous` to here."""
        return MigrationEvent(
            migration_id=self.migration_id,
            model=self.model,
            candidate=self.candidate,
            reference=self.reference,
            from_state=previous.state,
            to_state=self.state,
            weight=self.weight,
            route_version=self.route_version,
            reason=self.reason,
            evidence=self.evidence,
            at_ns=self.updated_ns,
        )
