"""A few cycles of the kill -9 soak, and what it says of a ledger that is wrong."""

from pathlib import Path

from soak import kill9


def test_nothing_answered_is_missing_or_doubled(tmp_path: Path) -> None:
    result = kill9.run(tmp_path, cycles=4, seed=7)
    assert kill9.passed(result), result
    assert result["cut"] == 4 * kill9.CLIENTS


def test_a_missing_row_fails(tmp_path: Path) -> None:
    config = kill9.config_in(tmp_path)
    result = kill9.verdict(config, ["req_never_written"], cycles=1, cut=0)
    assert (result["missing"], kill9.passed(result)) == (1, False)
