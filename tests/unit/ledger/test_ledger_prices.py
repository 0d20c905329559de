"""A price sheet is read exactly or refused with the file, line and column at fault."""

import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.config import BackendSettings, Config, LedgerSettings
from fungible.errors import ConfigError
from fungible.ledger.prices import FOREVER, LEAVES, PriceBook
from fungible.ledger.sheets import load_book, load_prices

HEADER = "key,unit,leaf,price,currency,valid_from,valid_to,source,note\n"
_CELL = st.characters(exclude_categories=("Cs",), exclude_characters=',"\r\n')
DAY = 86_400 * 1_000_000_000


def sheet(folder: Path, *lines: str, name: str = "prices.csv", header: str = HEADER) -> Path:
    path = folder / name
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_csv_sheet(tmp_path: Path) -> None:
    path = sheet(
        tmp_path,
        "# a comment",
        "cpu,hour,,0.0900,USD,2026-01-01,,example,simulated",
        "",
        'hosted,1M_tokens,input,0.15,USD,1970-01-02,1970-01-03T12:00:00+02:00,"a, b",',
        "hosted,1M_tokens,output,0.60,USD",
    )
    hour, tokens, output = load_prices(path).rows
    assert (hour.price, hour.where, hour.to_ns) == (Decimal("0.0900"), "prices.csv:3", FOREVER)
    assert (tokens.from_ns, tokens.to_ns) == (DAY, 2 * DAY + DAY * 10 // 24)
    assert tokens.source == "a, b"
    assert (output.from_ns, output.to_ns) == (0, FOREVER)


def test_a_yaml_sheet_reads_decimals_as_written(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "- {key: cpu, unit: hour, price: 0.10, currency: USD, valid_from: 2026-01-01}\n"
        "- key: other\n  unit: hour\n  price: 1\n  currency: USD\n  note:\n",
        encoding="utf-8",
    )
    first, second = load_prices(path).rows
    assert str(first.price) == "0.10"
    assert (second.where, second.note) == ("prices.yaml:2", "")


def test_a_leaf_of_its_own_wins_over_its_direction(tmp_path: Path) -> None:
    book = load_prices(
        sheet(
            tmp_path,
            "b,1M_tokens,input,1.00,USD,,2026-01-01",
            "b,1M_tokens,input,2.00,USD,2026-01-01,",
            "b,1M_tokens,in_cache_read,0.10,USD",
        )
    )
    new_year = 20_454 * DAY
    before, after = (book.tokens("b", at) for at in (new_year - 1, new_year))
    assert {leaf: row.price for leaf, row in before.items()} == {
        "in_uncached": Decimal("1.00"),
        "in_cache_read": Decimal("0.10"),
        "in_cache_write": Decimal("1.00"),
    }
    assert after["in_uncached"].price == Decimal("2.00")
    assert book.tokens("unknown", 0) == {}
    assert book.hourly("b") == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("b,hour,,-1,USD", ":2: column 'price' is '-1'"),
        ("b,hour,,+1,USD", ":2: column 'price'"),
        ("b,hour,,NaN,USD", ":2: column 'price'"),
        ("b,hour,,Infinity,USD", ":2: column 'price'"),
        ("b,hour,,1e3,USD", ":2: column 'price'"),
        ("b,hour,,.5,USD", ":2: column 'price'"),
        ("b,hour,,1_000,USD", ":2: column 'price'"),
        ("b,hour,,0.1234567890123,USD", ":2: column 'price'"),
        ("b,hour,,١,USD", ":2: column 'price'"),
        ("b,hour,,,USD", ":2: column 'price' is empty"),
        (",hour,,1,USD", ":2: column 'key' is empty"),
        ("b,day,,1,USD", ":2: column 'unit' is 'day'"),
        ("b,hour,input,1,USD", ":2: column 'leaf' must be empty"),
        ("b,1M_tokens,,1,USD", ":2: column 'leaf' is ''"),
        ("b,1M_tokens,prompt,1,USD", ":2: column 'leaf' is 'prompt'"),
        ("b,hour,,1,$", ":2: column 'currency' is '\\$'"),
        ("b,hour,,1,USD,01/02/2026", ":2: column 'valid_from' is '01/02/2026'"),
        ("b,hour,,1,USD,2026-02-01,2026-02-01", ":2: column 'valid_to' is not after"),
        ("b,hour,,1,USD,,,,,extra", ":2: 10 cells"),
        ('b,hour,,"1,USD', ":2: not valid CSV"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"prices\.csv{says}"):
        load_prices(sheet(tmp_path, line))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ("b,hour,,1,USD,,2026-03-01", "b,hour,,2,USD,2026-02-28,"),
            r"prices\.csv:3: column 'valid_from': the price of b overlaps the one in prices\.csv:2",
        ),
        (
            ("b,1M_tokens,input,1,USD", "c,hour,,1,USD", "b,1M_tokens,input,1,USD"),
            r"prices\.csv:4: .*b input overlaps the one in prices\.csv:2",
        ),
        (("b,hour,,1,USD", "c,hour,,1,EUR"), r"prices\.csv:3: column 'currency' is EUR"),
        (("b,hour,,1,USD", "b,1M_tokens,input,1,USD"), r"prices\.csv:3: column 'unit'"),
    ],
)
def test_lines_that_contradict_each_other(
    tmp_path: Path, lines: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_prices(sheet(tmp_path, *lines))


def test_a_switch_from_hours_to_tokens_is_no_contradiction(tmp_path: Path) -> None:
    lines = ("b,hour,,1,USD,,2026-03-01", "b,1M_tokens,input,1,USD,2026-03-01,")
    assert len(load_prices(sheet(tmp_path, *lines)).rows) == 2


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("key,unit,price\n", "column 'currency' is missing"),
        ("key,unit,price,currency,colour\n", "unknown column 'colour'"),
        ("key,unit,price,currency,key\n", "column 'key' is there twice"),
        ("", "no header"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, header: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"prices\.csv:1: {says}"):
        load_prices(sheet(tmp_path, header=header))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not valid YAML"),
        ("key: b", ":1: a price sheet in YAML is a list"),
        ("- b", ":1: not a mapping"),
        ("- {key: [b], unit: hour, price: 1, currency: USD}", "values must be single"),
        ("- {key: b, unit: hour, price: -1, currency: USD}", ":1: column 'price' is '-1'"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_prices(path)


def test_a_missing_or_unreadable_sheet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_prices(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prices(tmp_path / "latin.csv")


@given(st.text(_CELL, max_size=30) | st.from_regex(r"[0-9+-]{0,3}[.eE]?[0-9]{0,4}", fullmatch=True))
def test_whatever_is_in_a_price_it_is_exact_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = sheet(tmp_path_factory.getbasetemp(), f"b,hour,,{text},USD")
    rows = None
    with suppress(ConfigError):
        rows = load_prices(path).rows
    plain = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,12})?", text.strip())
    assert (rows is not None) == bool(plain)
    if rows is not None:
        assert rows[0].price == Decimal(text.strip())


def test_the_book_of_a_configuration(tmp_path: Path) -> None:
    backends = {"engine": BackendSettings(kind="null", price="cpu"), "cpu": BackendSettings()}
    config = Config(home=str(tmp_path), backend=backends)
    assert load_book(config).rows == ()
    sheet(tmp_path, "cpu,hour,,0.09,USD")
    book = load_book(config)
    assert [row.key for row in book.hourly("engine")] == ["cpu"]
    assert [row.key for row in book.hourly("cpu")] == ["cpu"]
    other = sheet(tmp_path, "engine,hour,,0.5,USD", name="other.csv")
    explicit = Config(home=str(tmp_path), ledger=LedgerSettings(prices=str(other)))
    assert load_book(explicit).hourly("engine")[0].price == Decimal("0.5")


def test_the_digest_changes_with_what_decides_an_amount_only(tmp_path: Path) -> None:
    plain = load_prices(sheet(tmp_path, "b,hour,,1.0,USD"))
    moved = load_prices(sheet(tmp_path, "", "b,hour,,1.0,USD,,,elsewhere,noted"))
    assert plain.digest == moved.digest
    dearer = load_prices(sheet(tmp_path, "b,hour,,1.1,USD"))
    assert len({plain.digest, dearer.digest, PriceBook(plain.rows, {"x": "b"}).digest}) == 3
    assert len(LEAVES) == 5


def test_a_far_future_is_until_further_notice(tmp_path: Path) -> None:
    book = load_prices(sheet(tmp_path, "b,hour,,1,USD,0001-01-01,9999-12-31"))
    assert (book.rows[0].from_ns, book.rows[0].to_ns) == (0, FOREVER)
    assert book.digest
