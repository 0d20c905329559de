"""Why an attempt was made is in the ledger, also for rows from before it was recorded."""

from collections.abc import Callable

import pytest

from fungible.contract.events import AttemptEvent
from fungible.ledger import store as store_module
from fungible.ledger.store import Store, open_store


def roles(store: Store) -> dict[str, str]:
    rows = store.query("SELECT attempt_id, role FROM attempts ORDER BY attempt_id").rows
    return {str(name).removeprefix("att_"): str(role) for name, role in rows}


def test_each_role_comes_back(store: Store, attempt: Callable[..., AttemptEvent]) -> None:
    made = {"1": "first", "2": "retry", "3": "fallback", "4": "hedge", "5": "shadow"}
    store.insert([attempt(name, role=role) for name, role in made.items()], "t")
    assert roles(store) == made


def test_a_ledger_from_before_says_what_can_be_told(
    dsn: str,
    attempt: Callable[..., AttemptEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = store_module.steps()
    assert max(steps) >= 3
    old = {version: step for version, step in steps.items() if version < 3}
    monkeypatch.setattr(store_module, "steps", lambda: old)
    ledger = open_store(dsn)
    try:
        assert [name[:4] for name in ledger.migrate()] == ["0001", "0002"]
        known = set(AttemptEvent.__struct_fields__) - {"role"}
        rows = [attempt("1"), attempt("2", kind="shadow"), attempt("3", attempt_no=2)]
        ledger.insert_rows(
            "attempt_events", [{name: getattr(row, name) for name in known} for row in rows]
        )
        monkeypatch.setattr(store_module, "steps", lambda: steps)
        ledger.migrate()
        ledger.insert([attempt("4", role="hedge")], "t")
        assert roles(ledger) == {"1": "first", "2": "shadow", "3": "", "4": "hedge"}
    finally:
        ledger.close()
