"""Lists of machines into facts, and what is paid by the hour into leases."""

import csv
import io
from collections.abc import Iterator
from typing import Any, Literal, get_args

import msgspec

from fungible.contract.accelerators import accelerator_named
from fungible.contract.events import LeaseEvent
from fungible.contract.streams import InfraFact
from fungible.errors import InputError
from fungible.ingest.intake import Intake, digest_of
from fungible.ingest.machines import (
    ACCELERATOR_LABELS,
    BACKEND_LABELS,
    Listed,
    accelerators_of,
    moment,
    reader_of,
)

Kind = Literal["instance", "node", "pod", "deployment"]
COLUMNS = (
    "resource",
    "kind",
    "provider",
    "parent",
    "backend",
    "accelerator",
    "accelerators",
    "instance_type",
    "region",
    "zone",
    "capacity",
    "addresses",
    "started_at",
    "ended_at",
    "observed_at",
)
# Pods and deployments run on machines that are paid for already.
LEASED = ("instance", "node")


def take_infra(intake: Intake, data: bytes, *, observed_ns: int) -> None:
    """Take every machine of one file; what cannot be used is rejected by itself.

    Args:
        intake: Of the stream `infra`.
        data: The file: JSON of a provider, or CSV with `COLUMNS`.
        observed_ns: When the list was made, where a row does not say.

    Raises:
        InputError: The file as a whole is none of the known forms.
    """
    for place, listed, read in _rows(data):
        try:
            fact = _fact(read(listed), f"{intake.source}:{place}", observed_ns)
        except (InputError, ValueError, TypeError, AttributeError) as error:
            # What a provider's list holds is any JSON: a wrong type costs its own row only.
            intake.reject(place, str(error), repr(listed))
            continue
        intake.take(fact)
        if lease := lease_of(fact):
            intake.take(lease)


def lease_of(fact: InfraFact) -> LeaseEvent | None:
    """The time that a machine is paid for, as far as it was seen; `None`: nobody said whose.

    The same machine is the same lease in every list; the last time it was seen holds.
    """
    if fact.kind not in LEASED or not fact.backend or not fact.started_ns:
        return None
    seen = fact.ended_ns or fact.observed_ns
    if seen <= fact.started_ns:
        return None
    return LeaseEvent(
        lease_id=f"inf_{digest_of([fact.provider, fact.resource, fact.started_ns])}",
        backend=fact.backend,
        accelerator=fact.accelerator,
        started_ns=fact.started_ns,
        seen_ns=seen,
        ended=bool(fact.ended_ns),
    )


def _rows(data: bytes) -> Iterator[Listed]:
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"not valid JSON: {error}") from error
        reader, wanted = reader_of(document)
        yield from reader(wanted)
    else:
        yield from _table(data)


def _table(data: bytes) -> Iterator[Listed]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if unknown := sorted(set(rows.fieldnames or ()) - set(COLUMNS)):
        raise InputError(
            f"line 1: unknown column {unknown[0]!r}", hint=f"known: {', '.join(COLUMNS)}"
        )
    if "resource" not in (rows.fieldnames or ()):
        raise InputError("line 1: column 'resource' is missing")
    try:
        for row in rows:
            yield f"line {rows.line_num}", row, _cells
    except csv.Error as error:
        raise InputError(f"line {rows.line_num}: not valid CSV: {error}") from error


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: (value or "").strip() for name, value in row.items() if name in COLUMNS
    }
    fields["addresses"] = fields.get("addresses", "").split()
    for column, name in (
        ("started_at", "started_ns"),
        ("ended_at", "ended_ns"),
        ("observed_at", "observed_ns"),
    ):
        fields[name] = fields.pop(column, "")
    fields["accelerators"] = fields.get("accelerators") or 0
    fields["kind"] = fields.get("kind") or "deployment"
    fields["provider"] = fields.get("provider") or "csv"
    return fields


def _fact(fields: dict[str, Any], source: str, observed_ns: int) -> InfraFact:
    if not fields.get("resource"):
        raise InputError("it has no name or id")
    if fields["kind"] not in get_args(Kind):
        raise InputError(f"kind is {fields['kind']!r}, not one of {', '.join(get_args(Kind))}")
    fields = dict(fields)
    for name in ("started_ns", "ended_ns", "observed_ns"):
        value = fields.get(name) or 0
        fields[name] = moment(value) if isinstance(value, str) else value
    fields["observed_ns"] = fields["observed_ns"] or observed_ns
    if fields["ended_ns"] and fields["ended_ns"] < fields["started_ns"]:
        raise InputError("it ended before it started")
    fields |= _labelled(fields)
    digest = digest_of({name: value for name, value in fields.items() if name != "observed_ns"})
    return msgspec.convert(
        fields | {"digest": digest, "source": source, "record": "infra"}, InfraFact, strict=False
    )


def _labelled(fields: dict[str, Any]) -> dict[str, Any]:
    """Backend and accelerator: as stated, else as labels say, else by the type of machine."""
    labels = fields.get("labels") or {}
    by_type, count = accelerators_of(str(fields.get("instance_type", "")))
    stated = next((labels[name] for name in ACCELERATOR_LABELS if labels.get(name)), "")
    accelerator = stated or fields.get("accelerator") or by_type
    if accelerator:
        accelerator_named(accelerator)
    return {
        "backend": fields.get("backend")
        or next((labels[name] for name in BACKEND_LABELS if labels.get(name)), ""),
        "accelerator": accelerator,
        "accelerators": fields.get("accelerators") or count,
    }
