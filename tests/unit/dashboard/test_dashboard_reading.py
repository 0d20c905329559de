"""The parts of a snapshot that do not come from the ledger, and its arithmetic."""

import json
import shlex
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fungible.config import BackendSettings, Config, KeySettings, LedgerSettings, RouteSettings
from fungible.dashboard.live import per_million, read_routes, simulated_prices, try_it
from fungible.routing.table import Route, RouteTable, Shadow

SCALE = 10**18


@given(st.integers(0, 10**30), st.integers(1, 10**15))
def test_cost_per_million_is_exact_to_eighteen_digits(units: int, tokens: int) -> None:
    text = per_million(Decimal(f"{units}E-18"), tokens)
    assert text is not None
    assert "E" not in text
    off = abs(Fraction(text) - Fraction(units, SCALE) * 1_000_000 / tokens)
    assert off <= Fraction(1, 2 * SCALE)


def test_no_tokens_is_unknown_not_free() -> None:
    assert per_million(Decimal("1.5"), 0) is None


def config_in(home: Path, **more: object) -> Config:
    backend = {"a": BackendSettings(kind="null"), "b": BackendSettings(kind="null")}
    route = {"m": RouteSettings(reference="a")}
    return Config(home=str(home), **({"backend": backend, "route": route} | more))  # type: ignore[arg-type]


def test_before_any_activation_the_file_decides(tmp_path: Path) -> None:
    routes = read_routes(config_in(tmp_path))
    assert (routes.version, routes.problem) == (0, "")
    assert routes.models[0].shares == {"a": 1.0}


def test_active_weights_become_shares(tmp_path: Path) -> None:
    route = Route(
        model="m",
        reference="a",
        weights={"a": 3.0, "b": 1.0, "c": 0.0},
        shadow=Shadow(backend="b", share=0.5),
    )
    write_table(tmp_path, msgspec.json.encode(RouteTable(version=7, routes={"m": route})))
    routes = read_routes(config_in(tmp_path))
    assert routes.version == 7
    assert routes.models[0].shares == {"a": 0.75, "b": 0.25}
    assert (routes.models[0].shadow, routes.models[0].shadow_share) == ("b", 0.5)


def test_a_broken_route_table_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, b'{"version": "seven"}')
    routes = read_routes(config_in(tmp_path))
    assert "routes.json" in routes.problem
    assert routes.models[0].shares == {"a": 1.0}


def write_table(home: Path, data: bytes) -> None:
    (home / "run").mkdir()
    (home / "run" / "routes.json").write_bytes(data)


def test_example_prices_in_use_are_marked(tmp_path: Path) -> None:
    sheet = tmp_path / "prices.csv"
    sheet.write_text(
        "key,unit,price,currency,source,note\n"
        "a,hour,1,USD,contract,\n"
        "b,hour,2,USD,,simulated: a guess\n"
        "unused,hour,3,USD,example,\n"
    )
    config = config_in(tmp_path, ledger=LedgerSettings(prices=str(sheet)))
    assert simulated_prices(config) == (["b"], "")


def test_a_broken_price_sheet_is_named(tmp_path: Path) -> None:
    config = config_in(tmp_path, ledger=LedgerSettings(prices=str(tmp_path / "none.csv")))
    marked, problem = simulated_prices(config)
    assert marked == []
    assert "none.csv" in problem


def test_the_command_to_try_is_one_a_shell_understands(tmp_path: Path) -> None:
    words = shlex.split(try_it(config_in(tmp_path)))
    assert words[:2] == ["curl", "http://127.0.0.1:8080/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "m"
    assert "Authorization" not in " ".join(words)
    with_keys = config_in(tmp_path, key={"k": KeySettings(hash="0" * 64)})
    assert "Authorization: Bearer $FUNGIBLE_API_KEY" in shlex.split(try_it(with_keys))
