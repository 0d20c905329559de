"""Reports are kept, compared with the one before, and never half-written."""

from pathlib import Path

import pytest

from fungible.config import BackendSettings, Config
from fungible.conformance.finding import Finding, Outcome
from fungible.conformance.report import (
    Change,
    DriftReport,
    latest,
    read_report,
    report_of,
    with_drift,
    write_report,
)
from fungible.errors import DiskError, InputError


def report(**outcomes: Outcome) -> DriftReport:
    config = Config(backend={"a": BackendSettings(kind="null", accelerator="none")})
    findings = [
        Finding(name=name, outcome=one, required=name == "whole") for name, one in outcomes.items()
    ]
    return report_of(config, "a", "m", "", findings)


def test_what_changed_is_named_and_untested_is_no_change() -> None:
    before = report(whole="honoured", seed="honoured", stop="untested", n="ignored")
    now = report(whole="honoured", seed="ignored", stop="honoured", n="untested", new="failed")
    assert with_drift(now, before).drift == [Change(name="seed", before="honoured", now="ignored")]
    assert with_drift(now, None).drift == []


@pytest.mark.parametrize(("outcome", "passed"), [("honoured", True), ("degraded", False)])
def test_only_what_is_required_decides(outcome: Outcome, passed: bool) -> None:
    assert report(whole=outcome, seed="failed").passed is passed


def test_the_newest_report_is_found_again(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    old, new = report(whole="failed"), report(whole="honoured")
    write_report(old, tmp_path / "20260101T000000.json")
    write_report(new, tmp_path / "20260102T000000.json")
    assert latest(tmp_path) == new
    assert not list(tmp_path.glob("*.part"))


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"1\.json: not a drift report"):
        read_report(path)


def test_a_disk_that_refuses_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write"):
        write_report(report(), tmp_path / "file" / "1.json")
