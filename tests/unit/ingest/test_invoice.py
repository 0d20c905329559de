"""Invoices of every form become lines with exact amounts; a line that cannot be used says why."""

import io
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fungible.contract.streams import InvoiceFact, RejectFact
from fungible.errors import InputError
from fungible.ingest.invoice import take_invoice
from support.intakes import taken

FOCUS = """\
InvoiceIssuerName,InvoiceId,InvoiceDetailId,ChargeCategory,ChargeClass,ChargePeriodStart,\
ChargePeriodEnd,SkuId,ConsumedQuantity,ConsumedUnit,BilledCost,EffectiveCost,BillingCurrency,Tags
openai,inv-1,1,Usage,,2026-10-01T00:00:00Z,2026-10-02T00:00:00Z,mini/in,1000,tokens,\
0.000000000000000001,,USD,"{""team"": ""a""}"
openai,inv-1,2,Credit,Correction,2026-10-01T00:00:00Z,2026-11-01T00:00:00Z,,,,-5.00,,USD,
"""
CUR = """\
identity/LineItemId,bill/InvoiceId,bill/BillingEntity,lineItem/LineItemType,\
lineItem/UsageStartDate,lineItem/UsageEndDate,lineItem/UsageType,lineItem/UsageAmount,\
lineItem/UnblendedCost,lineItem/CurrencyCode,lineItem/ResourceId,reservation/ReservationARN
a1,77,AWS,DiscountedUsage,2026-10-01T00:00:00Z,2026-10-01T01:00:00Z,USE2-trn2,1,1.5E-3,USD,i-1,arn
a2,77,AWS,Surprise,2026-10-01T00:00:00Z,2026-10-01T01:00:00Z,x,1,1,USD,,
"""
PLAIN = """\
issuer,invoice,sku,start,end,billed,currency
colo,2026-10,rack,2026-10-01,2026-11-01,1200.50,eur
colo,2026-10,rack,2026-10-01,2026-11-01,1200.50,eur
colo,2026-10,rack,2026-11-01,2026-10-01,1,eur
colo,2026-10,rack,2026-10-01,2026-11-01,many,eur
colo,2026-10,rack,2026-10-01,2026-11-01,NaN,eur
colo,2026-10,rack,2026-10-01,2026-11-01,1e40,eur
colo,2026-10,rack,2026-10-01,2026-11-01,0.0000000000000000001,eur
colo,2026-10,rack,2026-10-01,2026-11-01,1,euro
,2026-10,rack,2026-10-01,2026-11-01,1,eur
"""


def read(
    root: Path, data: str | bytes, name: str = "invoice.csv"
) -> tuple[list[InvoiceFact], list[RejectFact]]:
    raw = data.encode() if isinstance(data, str) else data
    facts, rejects = taken(
        root, "invoice", lambda intake: take_invoice(intake, Path(name), raw, known_ns=5)
    )
    return [one for one in facts if isinstance(one, InvoiceFact)], rejects


def test_focus_to_the_last_digit(tmp_path: Path) -> None:
    (usage, credit), rejects = read(tmp_path, FOCUS)
    assert not rejects
    assert usage.billed == Decimal("1E-18")
    assert (usage.issuer, usage.sku, usage.quantity) == ("openai", "mini/in", Decimal(1000))
    assert (usage.effective, usage.tags, usage.known_ns) == (None, {"team": "a"}, 5)
    assert usage.start_ns == int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * 10**9
    assert (credit.category, credit.correction, credit.billed) == ("credit", True, Decimal(-5))


def test_aws_reports_in_both_spellings(tmp_path: Path) -> None:
    (line,), (reject,) = read(tmp_path / "1", CUR)
    assert (line.category, line.commitment, line.resource) == ("usage", "arn", "i-1")
    assert line.billed == Decimal("0.0015")
    assert "Surprise" in reject.reason
    header, *rest = CUR.splitlines()
    snake = header.replace("/", "_").replace("lineItem", "line_item")
    snake = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", snake).replace("__", "_")
    assert "reservation_reservation_a_r_n" in snake
    (again,), _ = read(tmp_path / "2", "\n".join([snake, *rest]))
    assert (again.line, again.billed, again.digest) == (line.line, line.billed, line.digest)


def test_a_plain_table_rejects_line_by_line(tmp_path: Path) -> None:
    (first, second), rejects = read(tmp_path, PLAIN)
    assert first.currency == "EUR"
    assert first.line != second.line  # the same line twice is two lines
    assert [one.place for one in rejects] == [f"line {at}" for at in range(4, 11)]
    assert "more than 18 digits" in rejects[4].reason
    assert "issuer is empty" in rejects[6].reason


def test_the_same_file_again_is_the_same_lines(tmp_path: Path) -> None:
    first, _ = read(tmp_path / "1", PLAIN)
    assert read(tmp_path / "2", PLAIN)[0] == first


def test_parquet_keeps_decimals(tmp_path: Path) -> None:
    table = pa.table(
        {
            "InvoiceIssuerName": ["gcp"],
            "InvoiceId": ["i"],
            "ChargeCategory": ["Usage"],
            "ChargePeriodStart": [datetime(2026, 10, 1, tzinfo=UTC)],
            "ChargePeriodEnd": [datetime(2026, 10, 2, tzinfo=UTC)],
            "SkuId": ["v6e"],
            "BilledCost": pa.array([Decimal("2.700000000000000001")], pa.decimal128(38, 18)),
            "BillingCurrency": ["USD"],
        }
    )
    out = io.BytesIO()
    parquet.write_table(table, out)
    (line,), rejects = read(tmp_path, out.getvalue(), "focus.parquet")
    assert not rejects
    assert (line.billed, line.issuer) == (Decimal("2.700000000000000001"), "gcp")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("", "x.csv"),
        ("a,b\n1,2\n", "x.csv"),
        (b"\xff", "x.csv"),
        (b"no", "x.parquet"),
        ("issuer,billed,currency,start,end,colour\n", "x.csv"),
        ('issuer,billed,currency,start,end\n"a', "x.csv"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, data: str | bytes, name: str) -> None:
    with pytest.raises(InputError):
        read(tmp_path, data, name)


@settings(max_examples=100)
@given(
    amount=st.text(max_size=12) | st.decimals(places=18, max_value=10**15).map(lambda d: f"{d:f}"),
    start=st.text(max_size=12) | st.dates().map(str),
)
def test_whatever_a_line_says_it_is_taken_exactly_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, amount: str, start: str
) -> None:
    cells = [
        cell.replace('"', "").replace("\n", " ").replace("\r", " ") for cell in (amount, start)
    ]
    data = f'issuer,billed,currency,start,end\nx,"{cells[0]}",USD,"{cells[1]}",2027-01-01\n'
    facts, rejects = read(tmp_path_factory.mktemp("invoice"), data.encode("utf-8", "replace"))
    assert len(facts) + len(rejects) == 1
    if facts:
        assert facts[0].billed == Decimal(cells[0].strip())
