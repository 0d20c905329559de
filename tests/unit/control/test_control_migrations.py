"""A migration from the request to its end, over the real state and scripted rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.config import Config
from fungible.contract.events import MigrationEvent, VerdictEvent
from fungible.control.state import ControlState
from fungible.errors import InputError, RefusedError, UnknownModelError
from fungible.migrate.controller import MigrationController
from fungible.migrate.observations import AttemptRow
from fungible.routing.table import Route
from support.control_setup import (
    CANDIDATE,
    HOUR_NS,
    MODEL,
    REFERENCE,
    config_in,
    row,
    verdict_on,
)


class Ledger:
    """Rows as a list, with the ledger's own filter on time and backends."""

    def __init__(self) -> None:
        self.rows: list[AttemptRow] = []
        self.said: list[VerdictEvent] = []

    def attempts(self, model: str, backends: Sequence[str], since_ns: int) -> list[AttemptRow]:
        assert model == MODEL
        return [
            item for item in self.rows if item.started_ns >= since_ns and item.backend in backends
        ]

    def verdicts(self, model: str, candidate: str) -> list[VerdictEvent]:
        return [item for item in self.said if (item.model, item.candidate) == (model, candidate)]


class Scene:
    """Control's parts around one home, with a clock that tests move."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ledger = Ledger()
        self.events: list[MigrationEvent] = []
        self.now = verdict_on(config).decided_ns
        self.start_parts(config)

    def start_parts(self, config: Config) -> None:
        self.state = ControlState(config, clock=self.clock)
        self.controller = MigrationController(
            config=config, evidence=self.ledger, store=self.state, clock=self.clock
        )

    def restart(self, config: Config | None = None) -> None:
        self.state.close()
        self.start_parts(config or self.config)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def tick(self) -> list[str]:
        moved = [item.state for item in self.controller.tick()]
        self.state.refresh()
        self.state.publish(self.events.append)
        return moved

    def traffic(self, count: int, **candidate: Any) -> None:
        """Pairs in shadow, or two attempts of the incumbent per canary attempt."""
        kind = "shadow" if self.route.shadow else "serve"
        for _ in range(count):
            at = self.clock()
            self.ledger.rows += [row(at, REFERENCE), row(at, CANDIDATE, kind, **candidate)]

    @property
    def route(self) -> Route:
        return self.state.active().routes[MODEL]

    def edges(self) -> list[str]:
        self.state.publish(self.events.append)
        return [event.to_state for event in self.events]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(config_in(tmp_path))
    made.ledger.said.append(verdict_on(made.config))
    return made


BROKEN = {"status": "error", "http_status": 500, "finish_reason": ""}


def test_all_the_way_to_promotion(scene: Scene) -> None:
    started = scene.controller.start(MODEL, CANDIDATE)
    assert started.state == "shadow"
    assert scene.route.shadow is not None
    assert scene.route.shadow.migration_id == started.migration_id
    assert scene.route.weights == {REFERENCE: 1.0}
    assert scene.tick() == []
    scene.traffic(80)
    assert scene.tick() == ["canary"]
    assert scene.route.shadow is None
    assert scene.route.weights == {REFERENCE: 0.75, CANDIDATE: 0.25}
    scene.traffic(15)
    assert scene.tick() == ["canary"]
    assert scene.route.weights == {REFERENCE: 0.5, CANDIDATE: 0.5}
    scene.traffic(25)
    assert scene.tick() == ["promoted"]
    assert scene.route.weights == {CANDIDATE: 1.0}
    assert scene.route.fallback == [REFERENCE]
    assert scene.tick() == []
    assert scene.edges() == ["gated", "shadow", "canary", "canary", "promoted"]
    versions = [event.route_version for event in scene.events]
    assert versions == [0, 1, 2, 3, 4]
    assert [event.weight for event in scene.events] == [0, 0, 0.25, 0.5, 1.0]
    assert all(event.reason for event in scene.events)
    assert scene.events[-1].evidence["e_promote"] >= 20


def test_no_verdict_no_migration(tmp_path: Path) -> None:
    scene = Scene(config_in(tmp_path))
    with pytest.raises(RefusedError, match="cand has no verdict"):
        scene.controller.start(MODEL, CANDIDATE)
    assert scene.edges() == ["refused"]
    assert scene.state.active().version == 0


def test_a_failing_verdict_is_cited(scene: Scene) -> None:
    scene.ledger.said.append(
        verdict_on(
            scene.config,
            outcome="fail",
            reasons=["12 of 200 answers flipped"],
            decided_ns=scene.now + HOUR_NS,
        )
    )
    with pytest.raises(RefusedError, match="12 of 200 answers flipped"):
        scene.controller.start(MODEL, CANDIDATE)


def test_a_pass_on_one_suite_does_not_hide_a_fail_on_another(scene: Scene) -> None:
    failing = verdict_on(scene.config, suite="code", outcome="inconclusive", reasons=["too few"])
    scene.ledger.said.insert(0, failing)
    with pytest.raises(RefusedError, match="'code' is inconclusive: too few"):
        scene.controller.start(MODEL, CANDIDATE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expires_ns": 1}, "has expired"),
        ({"binding": "other"}, "none for exactly this artifact"),
        ({"reference_binding": "other"}, "none for exactly this artifact"),
    ],
)
def test_a_verdict_that_speaks_for_something_else(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    scene = Scene(config_in(tmp_path))
    scene.ledger.said.append(verdict_on(scene.config, **changes))
    assert why in (scene.controller.plan(MODEL, CANDIDATE).refusal or "")
    with pytest.raises(RefusedError, match=why):
        scene.controller.start(MODEL, CANDIDATE)


def test_names_that_do_not_exist(scene: Scene) -> None:
    with pytest.raises(UnknownModelError, match="ghost"):
        scene.controller.start("ghost", CANDIDATE)
    with pytest.raises(InputError, match="does not list the backend 'ghost'"):
        scene.controller.start(MODEL, "ghost")
    with pytest.raises(InputError, match="serves all"):
        scene.controller.start(MODEL, REFERENCE)
    with pytest.raises(InputError, match="no migration"):
        scene.controller.find("ghost")


def test_one_migration_of_a_model_at_a_time(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    with pytest.raises(RefusedError, match="is being migrated to cand"):
        scene.controller.start(MODEL, CANDIDATE)


def test_a_failing_candidate_is_rolled_back_to_the_route_before(scene: Scene) -> None:
    before = scene.route
    scene.controller.start(MODEL, CANDIDATE)
    scene.traffic(5, **BROKEN)
    assert scene.tick() == ["rolled_back"]
    assert scene.route == before
    assert "5 times in a row" in scene.events[-1].reason


def test_a_canary_that_breaks_goes_back(scene: Scene) -> None:
    before = scene.route
    scene.controller.start(MODEL, CANDIDATE)
    scene.traffic(80)
    scene.tick()
    scene.traffic(6)
    scene.traffic(6, **BROKEN)
    assert scene.tick() == ["rolled_back"]
    assert scene.route == before


def test_the_operator_turns_back(scene: Scene) -> None:
    started = scene.controller.start(MODEL, CANDIDATE)
    ended = scene.controller.rollback(started.migration_id, "lunch")
    assert (ended.state, ended.reason) == ("rolled_back", "operator: lunch")
    assert scene.route.shadow is None
    with pytest.raises(RefusedError, match="has ended"):
        scene.controller.rollback(started.migration_id, "again")


def test_a_restart_in_every_state_changes_nothing(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    for pairs, state in ((80, "canary"), (15, "canary"), (25, "promoted")):
        scene.restart()
        scene.traffic(pairs - 1)
        scene.restart()
        scene.traffic(1)
        assert scene.tick() == [state]
    assert scene.edges() == ["gated", "shadow", "canary", "canary", "promoted"]


def test_a_crash_between_the_database_and_the_file_is_repaired(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    path = scene.config.home_path() / "run" / "routes.json"
    old = path.read_bytes()
    scene.traffic(80)
    scene.tick()
    new = path.read_bytes()
    path.write_bytes(old)
    scene.restart()
    assert path.read_bytes() == new


def test_a_new_engine_configuration_ends_the_migration(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    changed = config_in(scene.config.home_path(), candidate={"text": "another"})
    scene.restart(changed)
    assert scene.tick() == ["rolled_back"]
    assert "no longer admitted" in scene.events[-1].reason


def test_a_verdict_that_turns_ends_the_migration(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    scene.traffic(80)
    scene.tick()
    scene.ledger.said.append(
        verdict_on(scene.config, outcome="fail", reasons=["worse"], decided_ns=scene.now + HOUR_NS)
    )
    assert scene.tick() == ["rolled_back"]
    assert scene.route.weights == {REFERENCE: 1.0}


def test_an_expiring_verdict_ends_the_migration_and_the_traffic(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    scene.traffic(80)
    scene.tick()
    scene.now += 2 * HOUR_NS
    assert scene.tick() == ["rolled_back"]
    assert scene.route.weights == {REFERENCE: 1.0}


def test_a_candidate_that_left_the_file_ends_the_migration(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    config = scene.config
    route = msgspec.structs.replace(config.route[MODEL], backends=[])
    scene.restart(msgspec.structs.replace(config, route={MODEL: route}))
    assert scene.tick() == ["rolled_back"]


def test_a_route_changed_by_hand_is_left_as_it_is(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    by_hand = scene.state.activate_version(0, "by hand")
    scene.traffic(80)
    assert scene.tick() == ["rolled_back"]
    assert scene.state.active().version == by_hand.version
    assert "changed while it ran" in scene.events[-1].reason


def test_back_to_the_reference_needs_no_verdict(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    for pairs in (80, 15, 25):
        scene.traffic(pairs)
        scene.tick()
    assert scene.route.weights == {CANDIDATE: 1.0}
    back = scene.controller.start(MODEL, REFERENCE)
    assert back.state == "shadow"
    assert back.incumbents == [CANDIDATE]


def test_rolling_back_onto_an_expired_incumbent_falls_to_the_reference(scene: Scene) -> None:
    scene.controller.start(MODEL, CANDIDATE)
    for pairs in (80, 15, 25):
        scene.traffic(pairs)
        scene.tick()
    back = scene.controller.start(MODEL, REFERENCE)
    scene.now += 2 * HOUR_NS
    ended = scene.controller.rollback(back.migration_id, "no")
    assert ended.state == "rolled_back"
    assert scene.route.weights == {REFERENCE: 1.0}
