"""A short absence of the ledger; `ledger_down.py` makes it long."""

from pathlib import Path

from soak import ledger_down


def test_the_spool_holds_and_catches_up_once(tmp_path: Path) -> None:
    result = ledger_down.run(tmp_path, seconds=3.0, rate=50.0)
    assert ledger_down.passed(result), result
    assert result["answered"] > 100
