"""Route tables and edges survive the process; nobody serves who is not admitted."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.config import BackendSettings, Config, RouteSettings
from fungible.contract.events import MigrationEvent
from fungible.control.state import ControlState
from fungible.errors import InputError, RefusedError, UnavailableError
from fungible.routing.table import Admission, Route, RouteTable, Shadow, decode_table
from support.control_setup import CANDIDATE, HOUR_NS, MODEL, REFERENCE, config_in, verdict_on


def routes_file(config: Config) -> RouteTable:
    return decode_table((config.home_path() / "run" / "routes.json").read_bytes(), "routes.json")


def admitted(config: Config, **weights: float) -> dict[str, Route]:
    verdict = verdict_on(config)
    admission = Admission(
        verdict_id=verdict.verdict_id, binding=verdict.binding, expires_ns=verdict.expires_ns
    )
    return {
        MODEL: Route(
            model=MODEL,
            reference=REFERENCE,
            weights=weights,
            admissions={CANDIDATE: admission},
            fallback=[REFERENCE],
        )
    }


def edited(config: Config, **changes: Any) -> Config:
    route = msgspec.structs.replace(config.route[MODEL], **changes)
    return msgspec.structs.replace(config, route={MODEL: route})


def test_the_first_start_serves_by_the_file(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    assert state.active().version == 0
    assert state.active().routes[MODEL].weights == {REFERENCE: 1.0}
    assert routes_file(config) == state.active()


def test_activation_is_a_new_version_in_the_database_and_in_the_file(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    table = state.activate(admitted(config, ref=0.5, cand=0.5), "half")
    assert table.version == 1
    assert routes_file(config) == table
    state.close()
    assert ControlState(config).active() == table


def test_rollback_serves_by_an_earlier_version_again(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    state.activate(admitted(config, ref=0.5, cand=0.5), "half")
    back = state.activate_version(0, "")
    assert back.version == 2
    assert back.routes == state.history()[2].routes
    assert [table.version for table in state.history()] == [2, 1, 0]
    with pytest.raises(InputError, match="version 9"):
        state.activate_version(9, "")


def test_weight_without_an_admission_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    routes = {MODEL: Route(model=MODEL, reference=REFERENCE, weights={REFERENCE: 1, CANDIDATE: 1})}
    with pytest.raises(RefusedError, match="cand has no passing verdict"):
        state.activate(routes, "try")
    assert state.active().version == 0
    assert routes_file(config).version == 0


def test_an_admission_for_another_configuration_or_time_is_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    other = config_in(tmp_path, candidate={"text": "another"})
    with pytest.raises(RefusedError, match="another artifact"):
        state.activate(admitted(other, cand=1.0), "try")
    late = verdict_on(config).expires_ns + HOUR_NS
    state.close()
    with pytest.raises(RefusedError, match="expired"):
        ControlState(config, clock=lambda: late).activate(admitted(config, cand=1.0), "try")


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    routes = {MODEL: Route(model=MODEL, reference=REFERENCE, weights={"ghost": 1.0})}
    with pytest.raises(RefusedError, match="ghost"):
        ControlState(config).activate(routes, "try")


def test_an_expired_admission_is_taken_out_while_running(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    now = [verdict_on(config).decided_ns]
    state = ControlState(config, clock=lambda: now[0])
    state.activate(admitted(config, cand=1.0), "all")
    state.refresh()
    assert state.active().version == 1
    now[0] += 2 * HOUR_NS
    state.refresh()
    assert state.active().routes[MODEL].weights == {REFERENCE: 1.0}
    assert "not admitted: cand" in state.active().reason
    assert routes_file(config).version == 2


def test_what_migrations_moved_survives_a_restart(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    state.activate(admitted(config, cand=1.0), "all")
    state.close()
    again = ControlState(edited(config, fallback=[], retries=3))
    route = again.active().routes[MODEL]
    assert route.weights == {CANDIDATE: 1.0}
    assert (route.fallback, route.retries) == ([], 3)


def test_an_edited_weight_in_the_file_wins(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    state.activate(admitted(config, cand=1.0), "all")
    state.close()
    again = ControlState(edited(config, weights={REFERENCE: 3.0, CANDIDATE: 1.0}))
    assert again.active().routes[MODEL].weights == {REFERENCE: 3.0, CANDIDATE: 1.0}


def test_weights_of_the_file_need_an_admission_too(tmp_path: Path) -> None:
    config = edited(config_in(tmp_path), weights={REFERENCE: 1.0, CANDIDATE: 1.0})
    state = ControlState(config)
    assert state.active().routes[MODEL].weights == {REFERENCE: 1.0}
    assert "not admitted: cand" in state.active().reason


def test_models_and_backends_that_left_the_file_leave_the_table(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    state = ControlState(config)
    routes = admitted(config, cand=1.0)
    shadow = Shadow(backend=CANDIDATE, share=1.0)
    routes[MODEL] = msgspec.structs.replace(routes[MODEL], shadow=shadow)
    state.activate(routes, "all")
    state.close()
    smaller = msgspec.structs.replace(
        config,
        backend={REFERENCE: BackendSettings(kind="null")},
        route={MODEL: RouteSettings(reference=REFERENCE, fallback=[REFERENCE])},
    )
    route = ControlState(smaller).active().routes[MODEL]
    assert (route.weights, route.shadow) == ({REFERENCE: 1.0}, None)


def test_a_lost_route_file_is_written_again(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    ControlState(config).close()
    (tmp_path / "run" / "routes.json").unlink()
    ControlState(config)
    assert routes_file(config).version == 0


def test_a_broken_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "control.sqlite").write_bytes(b"not a database, but long enough to be read" * 40)
    with pytest.raises(UnavailableError, match=r"control\.sqlite"):
        ControlState(config_in(tmp_path))


def test_a_database_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    ControlState(config).close()
    with sqlite3.connect(tmp_path / "control.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UnavailableError, match="schema version 99"):
        ControlState(config)


def test_events_are_handed_over_until_they_were_written(tmp_path: Path) -> None:
    from fungible.migrate.states import Migration, Transition  # noqa: PLC0415

    config = config_in(tmp_path)
    state = ControlState(config)
    opened = Migration(
        migration_id="mig_1",
        model=MODEL,
        candidate=CANDIDATE,
        reference=REFERENCE,
        binding="b",
        policy=config.migration,
        created_ns=1,
        updated_ns=1,
    )
    refused = opened.take(Transition(to="refused", reason="no verdict"), 2)
    state.commit(refused, None, lambda version: refused.event(opened))

    def full(event: MigrationEvent) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        state.publish(full)
    state.close()
    written: list[MigrationEvent] = []
    again = ControlState(config)
    assert again.publish(written.append) == 1
    assert again.publish(written.append) == 0
    assert [(event.from_state, event.to_state) for event in written] == [("requested", "refused")]
    assert again.migrations() == [refused]
