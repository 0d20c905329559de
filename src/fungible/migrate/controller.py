"""Drives migrations, one look at a time; everything it knows is in the store it is given."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from fungible.config import Config
from fungible.contract.events import MigrationEvent, VerdictEvent
from fungible.contract.ids import new_id
from fungible.errors import InputError, RefusedError
from fungible.migrate.decision import decide
from fungible.migrate.observations import AttemptRow, assess
from fungible.migrate.plan import MigrationPlan, plan_migration
from fungible.migrate.routes import admitted_route, route_for
from fungible.migrate.states import Migration, Transition
from fungible.routing.table import Route, RouteTable

_BY_HAND = "the route was changed while it ran; it stays as it is now"


class Evidence(Protocol):
    """Reads the ledger. Rows come deduplicated by their identifiers, in any order."""

    def attempts(self, model: str, backends: Sequence[str], since_ns: int) -> list[AttemptRow]:
        """Attempts of kinds serve and shadow that started since."""
        ...

    def verdicts(self, model: str, candidate: str) -> list[VerdictEvent]:
        """Every verdict on the candidate."""
        ...


class MigrationStore(Protocol):
    """Keeps migrations and route tables; survives the process."""

    def active(self) -> RouteTable:
        """The table that gateways follow."""
        ...

    def migrations(self) -> list[Migration]:
        """All, newest first."""
        ...

    def save(self, migration: Migration) -> None:
        """Keep what changed without an edge."""
        ...

    def commit(
        self, migration: Migration, route: Route | None, event: Callable[[int], MigrationEvent]
    ) -> Migration:
        """Keep an edge: migration, new route table (if `route`) and event, all or nothing.

        `event` makes the event from the version of the route table. Returns the migration
        with that version filled in.

        Raises:
            RefusedError: The route gives weight to a backend that is not admitted.
        """
        ...


class MigrationController:
    """Starts, watches, moves and ends migrations. Thread-safe; all calls block.

    Args:
        config: Who may serve, and the policy of new migrations.
        evidence: The ledger.
        store: Where migrations and route tables live.
        clock: Unix time in nanoseconds.
    """

    def __init__(
        self,
        *,
        config: Config,
        evidence: Evidence,
        store: MigrationStore,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._evidence = evidence
        self._store = store
        self._clock = clock
        self._lock = threading.RLock()

    def plan(self, model: str, candidate: str) -> MigrationPlan:
        """What `start` would do; changes nothing."""
        return plan_migration(
            self._config,
            self._evidence.verdicts(model, candidate),
            model=model,
            candidate=candidate,
            now_ns=self._clock(),
        )

    def start(self, model: str, candidate: str) -> Migration:
        """Open a migration; it is in shadow when this returns.

        Raises:
            InputError: Model or candidate do not exist, or the candidate serves alone already.
            RefusedError: No verdict admits the candidate, or the model is being migrated.
        """
        with self._lock:
            plan = self.plan(model, candidate)
            before = self._store.active().routes[model]
            self._check_free(plan, before)
            now = self._clock()
            opened = Migration(
                migration_id=new_id("mig_"),
                model=model,
                candidate=candidate,
                reference=plan.reference,
                binding=plan.binding,
                policy=plan.policy,
                created_ns=now,
                updated_ns=now,
                verdict_id=plan.admission.verdict_id if plan.admission else "",
                before=before,
                route=before,
            )
            if plan.refusal is not None:
                self._take(opened, Transition(to="refused", reason=plan.refusal), plan)
                raise RefusedError(
                    f"migration of {model} to {candidate} refused: {plan.refusal}",
                    hint=plan.hint,
                )
            why = f"verdict {opened.verdict_id} admits it" if opened.verdict_id else "the reference"
            gated = self._take(opened, Transition(to="gated", reason=why), plan)
            return self._look(gated)

    def tick(self) -> list[Migration]:
        """Look at every running migration once; those that moved."""
        moved = []
        with self._lock:
            for migration in self._store.migrations():
                if migration.active:
                    after = self._look(migration)
                    if (after.state, after.step) != (migration.state, migration.step):
                        moved.append(after)
        return moved

    def rollback(self, migration_id: str, reason: str) -> Migration:
        """Turn a running migration back at once.

        Raises:
            InputError: There is no such migration.
            RefusedError: It has ended.
        """
        with self._lock:
            migration = self.find(migration_id)
            if not migration.active:
                raise RefusedError(
                    f"migration {migration_id} has ended: {migration.state}",
                    hint="`fungible route show` says what serves now",
                )
            back = Transition(
                to="rolled_back",
                reason=f"operator: {reason}",
                step=migration.step,
                evidence=migration.evidence,
            )
            return self._take(migration, back, None)

    def find(self, migration_id: str) -> Migration:
        """The migration with this identifier; `InputError` when there is none."""
        for migration in self._store.migrations():
            if migration.migration_id == migration_id:
                return migration
        error = InputError(f"no migration {migration_id!r}", hint="see `fungible migrate status`")
        error.status = 404
        raise error

    def _check_free(self, plan: MigrationPlan, before: Route) -> None:
        for other in self._store.migrations():
            if other.active and other.model == plan.model:
                raise RefusedError(
                    f"{plan.model} is being migrated to {other.candidate} ({other.state})",
                    hint=f"wait, or `fungible migrate rollback {other.model} {other.candidate}`",
                )
        serving = [name for name, weight in before.weights.items() if weight > 0]
        if serving == [plan.candidate]:
            raise InputError(f"{plan.candidate} serves all of {plan.model} already")

    def _look(self, migration: Migration) -> Migration:
        if self._gone(migration):
            back = Transition(to="rolled_back", reason="the configuration no longer lists it")
            return self._take(migration, back, None)
        if self._changed_by_hand(migration):
            return self._take(migration, Transition(to="rolled_back", reason=_BY_HAND), None)
        plan = self.plan(migration.model, migration.candidate)
        refusal = plan.refusal
        if refusal is None and plan.binding != migration.binding:
            refusal = "its artifact or engine configuration changed"
        if migration.state == "gated" and refusal is None:
            share = migration.policy.shadow_share
            shadow = Transition(to="shadow", reason=f"{share:.0%} of requests are copied to it")
            return self._take(migration, shadow, plan)
        rows = self._evidence.attempts(
            migration.model, [migration.candidate, *migration.incumbents], migration.stage_ns
        )
        seen = assess(migration, rows)
        transition = decide(migration, seen, now_ns=self._clock(), refusal=refusal)
        if transition is not None:
            watched = msgspec.structs.replace(migration, test=seen.test)
            return self._take(watched, transition, plan)
        if seen.evidence != migration.evidence:
            migration = msgspec.structs.replace(
                migration, test=seen.test, evidence=seen.evidence, updated_ns=self._clock()
            )
            self._store.save(migration)
        return migration

    def _changed_by_hand(self, migration: Migration) -> bool:
        return self._store.active().routes.get(migration.model) != migration.route

    def _gone(self, migration: Migration) -> bool:
        route = self._config.route.get(migration.model)
        if route is None:
            return True
        return migration.candidate not in {route.reference, *route.backends, *route.weights}

    def _take(
        self, migration: Migration, transition: Transition, plan: MigrationPlan | None
    ) -> Migration:
        now = self._clock()
        if migration.active and self._changed_by_hand(migration):
            transition = msgspec.structs.replace(transition, to="rolled_back", reason=_BY_HAND)
            after, route = migration.take(transition, now), None
        else:
            after = migration.take(transition, now)
            route = route_for(after, plan.admission if plan else None)
            if route is not None and after.state == "rolled_back":
                route = admitted_route(route, self._config, now)
        after = msgspec.structs.replace(after, route=route or migration.route)
        return self._store.commit(
            after,
            route,
            lambda version: msgspec.structs.replace(after, route_version=version).event(migration),
        )
