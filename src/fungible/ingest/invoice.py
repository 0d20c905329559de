"""Invoices into facts: FOCUS 1.0 to 1.4, AWS cost and usage reports, and a plain table.

Sources: FOCUS Cost and Usage (focus.finops.org), AWS' "Cost and Usage Report" data dictionary.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from fungible.contract.streams import ChargeCategory, InvoiceFact
from fungible.errors import InputError, MissingExtraError
from fungible.ingest.intake import Intake, digest_of
from fungible.ledger.sheets import moment_ns

PLAIN = (
    "issuer",
    "invoice",
    "line",
    "category",
    "correction",
    "sku",
    "meter",
    "description",
    "backend",
    "resource",
    "start",
    "end",
    "quantity",
    "unit",
    "billed",
    "effective",
    "contracted",
    "list_cost",
    "currency",
    "commitment",
)
_CATEGORIES: dict[str, ChargeCategory] = {
    "usage": "usage",
    "purchase": "purchase",
    "credit": "credit",
    "tax": "tax",
    "adjustment": "adjustment",
}
_AWS_CATEGORIES: dict[str, ChargeCategory] = {
    "Usage": "usage",
    "DiscountedUsage": "usage",
    "SavingsPlanCoveredUsage": "usage",
    "Fee": "purchase",
    "RIFee": "purchase",
    "SavingsPlanUpfrontFee": "purchase",
    "SavingsPlanRecurringFee": "purchase",
    "Tax": "tax",
    "Credit": "credit",
    "Refund": "credit",
    "SavingsPlanNegation": "adjustment",
    "EdpDiscount": "adjustment",
    "BundledDiscount": "adjustment",
    "PrivateRateDiscount": "adjustment",
}
_CURRENCY = re.compile(r"[A-Z]{3}")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[/:]")
# Amounts have at most 18 digits after the point; more would have to be rounded.
_MOST = Decimal(10) ** 18
_SCALE = -18

Row = dict[str, str]


def take_invoice(intake: Intake, path: Path, data: bytes, *, known_ns: int) -> None:
    """Take every line of one file; what cannot be used is rejected by itself.

    Args:
        intake: Of the stream `invoice`.
        path: Its name says whether it is Parquet.
        data: The file.
        known_ns: Since when we know it.

    Raises:
        InputError: The file as a whole is none of the known forms.
        MissingExtraError: It is Parquet, and `pyarrow` is not installed.
    """
    header, rows = _parquet(path, data) if path.suffix == ".parquet" else _table(data)
    read = _reader(header)
    seen: Counter[str] = Counter()
    for place, row in rows:
        try:
            fields = read(row)
            fields["line"] = fields["line"] or _numbered(seen, row)
            fact = _fact(fields, f"{intake.source}:{place}", known_ns)
        except (InputError, msgspec.ValidationError) as error:
            intake.reject(place, str(error), repr(row))
        else:
            intake.take(fact)


def _reader(header: list[str]) -> Callable[[Row], dict[str, Any]]:
    names = set(header)
    if {"BilledCost", "ChargePeriodStart", "BillingCurrency"} <= names:
        return _focus
    if "line_item_unblended_cost" in {_snake(name) for name in names}:
        return _aws
    if {"issuer", "billed", "currency", "start", "end"} <= names:
        if unknown := sorted(names - set(PLAIN)):
            raise InputError(
                f"line 1: unknown column {unknown[0]!r}", hint=f"known: {', '.join(PLAIN)}"
            )
        return _plain
    raise InputError(
        f"line 1: not an invoice that we know: {', '.join(header[:8])} …",
        hint="FOCUS (BilledCost, ChargePeriodStart, …), an AWS cost and usage report, or a table"
        f" with {', '.join(PLAIN)}",
    )


def _plain(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {name: row.get(name, "") for name in PLAIN}
    fields["category"] = _category(fields["category"] or "usage")
    fields["correction"] = fields["correction"].lower() in ("1", "true", "yes", "correction")
    return fields


def _focus(row: Row) -> dict[str, Any]:
    def of(*names: str) -> str:
        return next((row[name] for name in names if row.get(name)), "")

    return {
        "issuer": of("InvoiceIssuerName", "InvoiceIssuer", "ProviderName"),
        "invoice": of("InvoiceId", "BillingPeriodStart"),
        "line": of("InvoiceDetailId", "x_LineId"),
        "category": _category(of("ChargeCategory") or "usage"),
        "correction": of("ChargeClass").lower() == "correction",
        "sku": of("SkuId", "SkuPriceId"),
        "meter": of("SkuMeter"),
        "description": of("ChargeDescription"),
        "backend": of("x_Backend"),
        "resource": of("ResourceId"),
        "start": of("ChargePeriodStart"),
        "end": of("ChargePeriodEnd"),
        "quantity": of("ConsumedQuantity", "PricingQuantity"),
        "unit": of("ConsumedUnit", "PricingUnit"),
        "billed": of("BilledCost"),
        "effective": of("EffectiveCost"),
        "contracted": of("ContractedCost"),
        "list_cost": of("ListCost"),
        "currency": of("BillingCurrency"),
        "commitment": of("CommitmentDiscountId", "ContractCommitmentId"),
        "tags": _tags(of("Tags")),
    }


def _aws(row: Row) -> dict[str, Any]:
    of = {_snake(name): value for name, value in row.items()}
    kind = of.get("line_item_line_item_type", "")
    if kind not in _AWS_CATEGORIES:
        raise InputError(f"line_item_line_item_type is {kind!r}, which is not known")
    return {
        "issuer": of.get("bill_billing_entity") or "aws",
        "invoice": of.get("bill_invoice_id") or of.get("bill_billing_period_start_date", ""),
        "line": of.get("identity_line_item_id", ""),
        "category": _AWS_CATEGORIES[kind],
        "correction": False,
        "sku": of.get("product_sku") or of.get("line_item_usage_type", ""),
        "meter": of.get("line_item_operation", ""),
        "description": of.get("line_item_line_item_description", ""),
        "backend": of.get("resource_tags_user_fungible_backend", ""),
        "resource": of.get("line_item_resource_id", ""),
        "start": of.get("line_item_usage_start_date", ""),
        "end": of.get("line_item_usage_end_date", ""),
        "quantity": of.get("line_item_usage_amount", ""),
        "unit": of.get("pricing_unit", ""),
        "billed": of.get("line_item_unblended_cost", ""),
        "effective": of.get("savings_plan_savings_plan_effective_cost")
        or of.get("reservation_effective_cost", ""),
        "contracted": "",
        "list_cost": of.get("pricing_public_on_demand_cost", ""),
        "currency": of.get("line_item_currency_code", ""),
        "commitment": of.get("savings_plan_savings_plan_arn")
        or of.get("reservation_reservation_arn", ""),
    }


def _fact(fields: dict[str, Any], source: str, known_ns: int) -> InvoiceFact:
    for name in ("issuer", "billed", "currency", "start"):
        if not fields[name]:
            raise InputError(f"{name} is empty")
    start, end = _moment("start", fields["start"]), _moment("end", fields["end"])
    if end <= start:
        raise InputError(f"the charge period ends ({fields['end']}) before it starts")
    currency = fields["currency"].upper()
    if not _CURRENCY.fullmatch(currency):
        raise InputError(f"currency is {fields['currency']!r}, not an ISO 4217 code such as USD")
    clean = fields | {
        "start_ns": start,
        "end_ns": end,
        "billed": _amount("billed", fields["billed"]),
        "currency": currency,
    }
    for name in ("quantity", "effective", "contracted", "list_cost"):
        clean[name] = _amount(name, fields[name]) if fields[name] else None
    del clean["start"], clean["end"]
    digest = digest_of({name: str(value) for name, value in clean.items()})
    return InvoiceFact(**clean, digest=digest, source=source, known_ns=known_ns)


def _numbered(seen: Counter[str], row: Row) -> str:
    """A line id for lines that have none: equal lines of a file are counted."""
    digest = digest_of(row)
    seen[digest] += 1
    return f"{digest[:16]}-{seen[digest]}"


def _category(text: str) -> ChargeCategory:
    if text.lower() not in _CATEGORIES:
        raise InputError(f"the charge category is {text!r}, not one of {', '.join(_CATEGORIES)}")
    return _CATEGORIES[text.lower()]


def _amount(name: str, text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise InputError(f"{name} is {text!r}, not a number") from error
    if not amount.is_finite() or abs(amount) >= _MOST:
        raise InputError(f"{name} is {text!r}, out of range")
    exponent = amount.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < _SCALE:
        raise InputError(f"{name} is {text!r}: more than 18 digits after the point")
    return amount


def _moment(name: str, text: str) -> int:
    try:
        return moment_ns(text)
    except ValueError as error:
        raise InputError(f"{name} is {text!r}, not an ISO date or time") from error


def _tags(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InputError("Tags is not JSON") from error
    return {str(name): str(value) for name, value in found.items()} if found else {}


def _snake(name: str) -> str:
    """`lineItem/UsageStartDate` and `line_item_usage_start_date` are the same column."""
    return _WORD.sub("_", name).lower().replace("_a_r_n", "_arn")


def _table(data: bytes) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise InputError(f"line 1: not valid CSV: {error}") from error
    return header, _lines(reader, header)


def _lines(reader: Any, header: list[str]) -> Iterator[tuple[str, Row]]:  # noqa: ANN401  # csv's own type
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                row = dict(zip(header, map(str.strip, cells), strict=False))
                yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: not valid CSV: {error}") from error


def _parquet(path: Path, data: bytes) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # only where it is needed
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: Parquet needs pyarrow", hint="pip install 'fungible[ledger]'"
        ) from error
    try:
        table = parquet.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise InputError(f"not a Parquet file: {error}") from error
    rows = (
        (f"row {at}", {name: _cell(value) for name, value in row.items()})
        for at, row in enumerate(table.to_pylist(), 1)
    )
    return list(table.column_names), rows


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, dict | list):
        return msgspec.json.encode(value, enc_hook=str).decode()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
