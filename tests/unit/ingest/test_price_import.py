"""Price sheets are taken whole or refused by cell; what was known then stays known."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from openpyxl import Workbook

from fungible.config import Config
from fungible.errors import ConfigError, InputError
from fungible.ingest.intake import Receipt
from fungible.ingest.prices import plan_import, write_import
from fungible.ingest.rates import read_rates
from fungible.ledger.known_prices import KnownPrices, book_as_known, imported_rows
from fungible.ledger.prices import FOREVER
from fungible.ledger.sheet_cells import worksheet_of
from fungible.ledger.sheets import read_sheet
from fungible.ledger.ship import ship
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import Store, open_store

HEADER = ["key", "unit", "leaf", "price", "currency", "valid_from", "tier", "context_to"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"chdb://{tmp_path}/ledger")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=str(tmp_path))


def workbook(path: Path, *rows: Sequence[object], title: str = "Prices", more: str = "") -> Path:
    book = Workbook()
    page = book.active
    assert page is not None
    page.title = title
    for row in (HEADER, *rows):
        page.append(row)
    if more:
        book.create_sheet(more)
    book.save(path)
    return path


def csv(path: Path, *lines: str) -> Path:
    path.write_text("key,unit,leaf,price,currency\n" + "".join(f"{line}\n" for line in lines))
    return path


def take(config: Config, store: Store, path: Path, known_ns: int, name: str = "") -> Receipt | None:
    planned = plan_import(config, store, name or path.name, read_sheet(path), known_ns)
    if planned.unchanged:
        return None
    spool = SpoolWriter(config.spool_path(), "ingest")
    receipt = write_import(spool, planned)
    spool.close()
    ship(config.spool_path(), store)
    return receipt


def test_a_workbook_as_a_person_keeps_it(tmp_path: Path) -> None:
    noon = datetime.fromisoformat("2026-05-01T12:00")
    path = workbook(
        tmp_path / "contract.xlsx",
        ["# agreed in May"],
        ["gpt", "1M_tokens", "input", 0.15, "USD", date(2026, 5, 1), None, 200000],
        [],
        ["gpt", "1M_tokens", "output", "0.60", "USD", noon, "flex"],
        more="Notes",
    )
    first, second = read_sheet(path)
    assert (first.price, first.where) == (Decimal("0.15"), "contract.xlsx!Prices!D3")
    assert (first.context_to, second.tier) == (200_000, "flex")
    assert second.from_ns - first.from_ns == 12 * 3600 * 10**9
    assert str(second.price) == "0.60"


def test_a_number_is_read_as_it_was_typed_not_as_it_is_stored(tmp_path: Path) -> None:
    path = workbook(tmp_path / "p.xlsx", ["b", "hour", None, 0.1 + 0.2, "USD"])
    assert str(read_sheet(path)[0].price) == "0.3"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["b", "hour", None, "1e3", "USD"], r"contract\.xlsx!Prices!D2: column 'price' is '1e3'"),
        (["b", "hour", None, -1, "USD"], r"!D2: column 'price' is '-1'"),
        (["b", "hour", None, None, "USD"], r"!D2: column 'price' is empty"),
        (["b", "day", None, 1, "USD"], r"!B2: column 'unit' is 'day'"),
        (["b", "hour", None, 1, "US$"], r"!E2: column 'currency'"),
        (["b", "hour", None, 1, "USD", "soon"], r"!F2: column 'valid_from' is 'soon'"),
        (["b", "hour", None, 1, "USD", None, "flex"], r"!G2: column 'tier' must be empty"),
        (["b", "1M_tokens", "input", 1, "USD", None, None, 1.5], r"!H2: column 'context_to'"),
        (["b", "hour", None, 1, "USD", None, None, None, "x"], r"!I2: a cell without a column"),
        (["b", "hour", None, "=1/0", "USD"], r"!D2: column 'price' is empty"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, row: list[object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_sheet(workbook(tmp_path / "contract.xlsx", row))


def test_which_worksheet(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["b", "hour", None, 1, "USD"], title="2026", more="Notes")
    with pytest.raises(InputError, match="several worksheets"):
        worksheet_of(path, "")
    with pytest.raises(InputError, match="no worksheet 'Prices'"):
        worksheet_of(path, "Prices")
    assert read_sheet(path, "2026")[0].where == "a.xlsx!2026!D2"
    broken = tmp_path / "b.xlsx"
    broken.write_bytes(b"PK")
    with pytest.raises(ConfigError, match="not an XLSX workbook"):
        read_sheet(broken)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("hello", "x")
    with pytest.raises(ConfigError, match="not an XLSX workbook"):
        read_sheet(broken)


def test_the_book_is_as_it_was_known(tmp_path: Path, store: Store, config: Config) -> None:
    assert book_as_known(config, store).rows == ()
    sheet = tmp_path / "p.csv"
    take(config, store, csv(sheet, "b,hour,,1,USD", "c,hour,,5,USD"), 100)
    take(config, store, csv(sheet, "b,hour,,2,USD"), 200)
    take(config, store, csv(tmp_path / "other.csv", "d,hour,,3,USD"), 150)

    def prices(known_ns: int) -> dict[str, Decimal]:
        rows = book_as_known(config, store, known_ns).rows
        return {row.key: row.price.normalize() for row in rows}

    assert prices(99) == {}
    assert prices(100) == {"b": 1, "c": 5}
    assert prices(150) == {"b": 1, "c": 5, "d": 3}
    assert prices(200) == prices(FOREVER) == {"b": 2, "d": 3}
    known = book_as_known(config, store).hourly("b")[0]
    assert (known.where, known.sheet, known.known_ns) == ("p.csv:2", "p.csv", 200)


def test_the_same_sheet_again_is_nothing_new(tmp_path: Path, store: Store, config: Config) -> None:
    path = csv(tmp_path / "p.csv", "b,hour,,1,USD")
    assert take(config, store, path, 100) is not None
    digest = book_as_known(config, store).digest
    assert take(config, store, path, 200) is None
    assert take(config, store, csv(path, "b,hour,,2,USD"), 300) is not None
    # A return to what it said before is news.
    assert take(config, store, csv(path, "b,hour,,1,USD"), 400) is not None
    assert book_as_known(config, store).digest == digest
    with pytest.raises(InputError, match="already as known at that moment"):
        take(config, store, csv(path, "b,hour,,9,USD"), 400)


def test_an_import_that_was_cut_short_counts_for_nothing(
    tmp_path: Path, store: Store, config: Config
) -> None:
    path = csv(tmp_path / "p.csv", "b,hour,,1,USD", "c,hour,,1,USD")
    planned = plan_import(config, store, "p.csv", read_sheet(path), 100)
    store.insert(planned.facts[:1], "half")
    assert imported_rows(store) == []
    assert take(config, store, path, 100) is not None
    assert len(imported_rows(store)) == 2
    # Half of the next one does not disturb the last whole one.
    planned = plan_import(config, store, "p.csv", read_sheet(csv(path, "b,hour,,2,USD")), 200)
    store.insert(planned.facts, "no receipt")
    assert {row.price for row in imported_rows(store)} == {1}


def test_sheets_must_not_contradict_each_other(
    tmp_path: Path, store: Store, config: Config
) -> None:
    take(config, store, csv(tmp_path / "a.csv", "b,1M_tokens,input,1,USD"), 100)
    clash = csv(tmp_path / "z.csv", "x,hour,,1,USD", "b,1M_tokens,input,2,USD")
    with pytest.raises(ConfigError, match=r"z\.csv:3: .* overlaps the one in a\.csv:2"):
        take(config, store, clash, 200)
    # Known before the other was: the two would meet later, and now.
    with pytest.raises(ConfigError, match="overlaps"):
        take(config, store, clash, 50)
    assert {row.sheet for row in imported_rows(store)} == {"a.csv"}
    (tmp_path / "prices.csv").write_text("key,unit,leaf,price,currency\ny,hour,,1,USD\n")
    with pytest.raises(ConfigError, match=r"w\.csv:2: .* overlaps the one in prices\.csv:2"):
        take(config, store, csv(tmp_path / "w.csv", "y,hour,,2,USD"), 200)


def test_a_sheet_can_be_withdrawn(tmp_path: Path, store: Store, config: Config) -> None:
    take(config, store, csv(tmp_path / "p.csv", "b,hour,,1,USD"), 100)
    spool = SpoolWriter(config.spool_path(), "ingest")
    write_import(spool, plan_import(config, store, "p.csv", [], 200))
    spool.close()
    ship(config.spool_path(), store)
    assert book_as_known(config, store).rows == ()
    assert len(book_as_known(config, store, 150).rows) == 1
    assert plan_import(config, store, "p.csv", [], 300).unchanged


def test_a_running_process_sees_what_was_imported(
    tmp_path: Path, store: Store, config: Config
) -> None:
    prices = KnownPrices(config)
    before = prices.book(store)
    assert prices.book(store) is before
    take(config, store, csv(tmp_path / "p.csv", "b,hour,,1,USD"), 100)
    after = prices.book(store)
    assert [row.key for row in after.rows] == ["b"]
    assert prices.book(store) is after


def test_rates_as_a_table_and_as_the_ecb_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "fx.csv"
    path.write_text("day,base,quote,rate\n2026-10-05,USD,EUR,0.85\n2026-10-06,USD,EUR,0.86\n")
    assert [str(fact.rate) for fact in read_rates(path, 1)] == ["0.85", "0.86"]
    path.write_text("Date,USD,JPY,CYP,\n2026-10-06,1.1702,170.5,N/A,\n2026-10-05,1.16,,N/A,\n")
    facts = read_rates(path, 1)
    assert [(f.base, f.quote, str(f.day), str(f.rate)) for f in facts] == [
        ("EUR", "USD", "2026-10-06", "1.1702"),
        ("EUR", "JPY", "2026-10-06", "170.5"),
        ("EUR", "USD", "2026-10-05", "1.16"),
    ]
    assert facts[0].source == "ECB, fx.csv:2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day,base,quote,rate\n2026-10-05,USD,EUR,0\n", ":2: column 'rate' is '0'"),
        ("day,base,quote,rate\n2026-10-05,USD,EUR,1e3\n", ":2: column 'rate'"),
        ("day,base,quote,rate\n05.10.2026,USD,EUR,1\n", ":2: column 'day'"),
        ("day,base,quote,rate\n2026-10-05,USD,USD,1\n", ":2: column 'quote' is the base"),
        ("day,base,quote,rate\n2026-10-05,$,EUR,1\n", ":2: column 'base'"),
        ("day,base,quote\n", ":1: column 'rate' is missing"),
        ("day,base,quote,rate\n", "no rate in it"),
        ("Date,USD,\n2026-10-06,x,\n", ":2: column 'USD' is 'x'"),
        ("Date,dollar,\n", ":1: column 'dollar' is no currency"),
        (
            "day,base,quote,rate\n2026-10-05,USD,EUR,1\n2026-10-05,USD,EUR,2\n",
            r"another rate of USD/EUR for 2026-10-05 than in fx\.csv:2",
        ),
    ],
)
def test_bad_rates_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "fx.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says) if "\\" not in says else says):
        read_rates(path, 1)
