"""The drift report: what was found, when, about exactly what, and what changed since."""

import os
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from fungible.config import Config, binding_of
from fungible.conformance.finding import Finding, Outcome
from fungible.errors import DiskError, InputError


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A question that had another outcome in the report before."""

    name: str
    before: Outcome
    now: Outcome


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the suite against one backend.

    Attributes:
        binding: What it speaks for; another binding is another backend.
        at: ISO time, UTC.
        drift: Changes since the report before; empty for the first one.
        passed: Whether everything that applications cannot do without is honoured.
    """

    backend: str
    kind: str
    model: str
    reference: str
    accelerator: str
    target: str
    binding: str
    at: str
    fungible: str
    passed: bool
    findings: list[Finding]
    drift: list[Change] = []


def report_of(
    config: Config, backend: str, model: str, reference: str, findings: list[Finding]
) -> DriftReport:
    """The report of a run, dated now, without drift."""
    settings = config.backend[backend]
    return DriftReport(
        backend=backend,
        kind=settings.kind,
        model=model,
        reference=reference,
        accelerator=settings.accelerator,
        target=settings.engine.target if settings.engine else "",
        binding=binding_of(backend, settings),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        fungible=version("fungible"),
        passed=all(one.outcome == "honoured" for one in findings if one.required),
        findings=findings,
    )


def with_drift(report: DriftReport, before: DriftReport | None) -> DriftReport:
    """The report with what changed since `before`; untested on either side is no change."""
    if before is None:
        return report
    known = {one.name: one.outcome for one in before.findings}
    drift = [
        Change(name=one.name, before=known[one.name], now=one.outcome)
        for one in report.findings
        if one.name in known
        and one.outcome != known[one.name]
        and "untested" not in (one.outcome, known[one.name])
    ]
    return msgspec.structs.replace(report, drift=drift)


def folder_of(config: Config, backend: str) -> Path:
    """Where the reports of a backend are kept."""
    return config.home_path() / "reports" / "backends" / backend


def latest(folder: Path) -> DriftReport | None:
    """The newest report of a folder.

    Raises:
        InputError: It is not a report; names the file.
    """
    files = sorted(folder.glob("*.json"))
    return read_report(files[-1]) if files else None


def read_report(path: Path) -> DriftReport:
    """One report.

    Raises:
        InputError: The file is missing or not a report.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=DriftReport)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a drift report: {error}", hint="delete it, or check again"
        ) from error


def write_report(report: DriftReport, path: Path) -> None:
    """Write it whole or not at all.

    Raises:
        DiskError: The disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        part.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot write: {error.strerror}") from error


def file_name(report: DriftReport) -> str:
    """Sorts by time."""
    return re.sub(r"[^0-9T]", "", report.at.split("+")[0]) + ".json"
