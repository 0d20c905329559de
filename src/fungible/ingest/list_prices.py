"""Public list prices of `genai-prices`, as rows of the price book; offline, and fail-closed.

Only its data is used. Its calculator prices a context that it does not know at the standard
tier, and a leaf without a price at its parent's; here a tier has the leaves that it names and no
others, and a model whose prices say more than our leaves can tell apart is left out and named.
"""

import importlib
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from fungible.errors import InputError, MissingExtraError
from fungible.ledger.prices import FOREVER, PriceBasis, PriceRow
from fungible.ledger.rates import day_ns
from fungible.ledger.sheets import PRICE

SOURCE = "genai-prices"
_LEAVES = {
    "input_mtok": ("in_uncached",),
    "cache_read_mtok": ("in_cache_read",),
    "cache_write_mtok": ("in_cache_write",),
    "output_mtok": ("out_visible", "out_reasoning"),
    "output_reasoning_mtok": ("out_reasoning",),
}
# Paid beside the tokens, for tools that a call may use: not in the cost of tokens.
_BESIDE = frozenset({"web_searches_kcount", "storage_searches_kcount"})
# How long a written entry is kept is not recorded, so its price is unknown where that decides.
_LONGER_CACHE = "cache_write_1h_mtok"


class ListPrices(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and what was left out: its place and the reason."""

    rows: list[PriceRow]
    skipped: list[tuple[str, str]]


class _ShapeError(Exception):
    """Prices that our leaves cannot express."""


def list_prices(
    provider: str = "", models: tuple[str, ...] = (), basis: PriceBasis = "list"
) -> ListPrices:
    """The prices of all models, or of one provider's, or of some of its models.

    Keys are `provider/model`, amounts in USD.

    Raises:
        InputError: There is no such provider or model.
        MissingExtraError: `genai-prices` is not installed.
    """
    providers, version = _data()
    chosen = [one for one in providers if provider in ("", one.id)]
    if not chosen:
        names = ", ".join(sorted(one.id for one in providers))
        raise InputError(f"{SOURCE} has no provider {provider!r}", hint=f"one of {names}")
    rows: list[PriceRow] = []
    skipped: list[tuple[str, str]] = []
    found = set()
    for one in chosen:
        for model in one.models:
            if models and model.id not in models:
                continue
            found.add(model.id)
            key = f"{one.id}/{model.id}"
            start = {"key": key, "issuer": one.id, "basis": basis, "source": f"{SOURCE} {version}"}
            try:
                rows += _rows(model, start, skipped)
            except _ShapeError as error:
                skipped.append((key, str(error)))
    if missing := sorted(set(models) - found):
        raise InputError(f"{SOURCE} has no model {missing[0]!r}", hint="it knows them by their id")
    return ListPrices(rows=rows, skipped=skipped)


def _data() -> tuple[list[Any], str]:
    try:
        module = importlib.import_module("genai_prices.data")
    except ImportError as error:
        raise MissingExtraError(
            "public list prices need genai-prices", hint="run: pip install 'fungible[prices]'"
        ) from error
    metadata = importlib.import_module("importlib.metadata")
    return list(module.providers), str(metadata.version("genai-prices"))


def _rows(
    model: Any,  # noqa: ANN401  # the library's own type
    start: Mapping[str, Any],
    skipped: list[tuple[str, str]],
) -> list[PriceRow]:
    spans = _standard(model.prices)
    rows = [row for span, prices in spans for row in _leaves(prices, start, span, "", skipped)]
    by_tier: dict[str, list[tuple[date | None, Any]]] = {}
    for variant in model.price_variants or ():
        tier = _tier(variant.when)
        if tier is None:
            said = ", ".join(f"{name}={value}" for name, value in variant.when.items())
            skipped.append((start["key"], f"what {said} costs: calls do not say so"))
        elif tier or _stated(variant.prices):
            by_tier.setdefault(tier, []).append((_since(variant.constraint), variant.prices))
    if "" in by_tier:
        raise _ShapeError("the default tier has other prices than the standard ones")
    for tier, dated in by_tier.items():
        # The library takes the first that holds, so the newest comes first.
        for span, prices in _spans(dated[::-1]):
            rows += _leaves(prices, start, span, tier, skipped)
    return rows


def _standard(prices: Any) -> list[tuple[tuple[int, int], Any]]:  # noqa: ANN401
    if not isinstance(prices, list):
        return [((0, FOREVER), prices)]
    # The library falls back to the first where none holds yet: before its date that is a guess.
    return _spans([(_since(one.constraint), one.prices) for one in prices])


def _since(constraint: Any) -> date | None:  # noqa: ANN401
    if constraint is None:
        return None
    started = getattr(constraint, "start_date", None)
    if not isinstance(started, date):
        raise _ShapeError(f"prices depend on {type(constraint).__name__}")
    return started


def _spans(dated: list[tuple[date | None, Any]]) -> list[tuple[tuple[int, int], Any]]:
    """Prices with the time in which each holds; they must be given oldest first."""
    starts = [0 if since is None else day_ns(since) for since, _ in dated]
    if starts != sorted(set(starts)):
        raise _ShapeError("dated prices are not in order")
    ends = [*starts[1:], FOREVER]
    return [
        ((start, end), prices) for start, end, (_, prices) in zip(starts, ends, dated, strict=True)
    ]


def _tier(when: Mapping[str, str]) -> str | None:
    """Our name of the tier; empty for the standard one, `None` for what is no tier."""
    if len(when) == 1 and "service_tier" in when:
        return "" if when["service_tier"] == "default" else when["service_tier"]
    return "batch" if dict(when) == {"processing": "batch"} else None


def _stated(prices: Any) -> dict[str, Any]:  # noqa: ANN401
    return {name: value for name, value in vars(prices).items() if value is not None}


def _leaves(
    prices: Any,  # noqa: ANN401
    start: Mapping[str, Any],
    span: tuple[int, int],
    tier: str,
    skipped: list[tuple[str, str]],
) -> Iterator[PriceRow]:
    stated = _stated(prices)
    if unknown := sorted(set(stated) - set(_LEAVES) - _BESIDE - {_LONGER_CACHE}):
        raise _ShapeError(f"it has a price of {unknown[0]}, which our leaves cannot tell apart")
    if _LONGER_CACHE in stated:
        stated.pop("cache_write_mtok", None)
        skipped.append((start["key"], "cache writes: their price depends on how long they last"))
    by_leaf = {leaf: stated[name] for name in _LEAVES if name in stated for leaf in _LEAVES[name]}
    for leaf, value in by_leaf.items():
        for (least, most), price in _bands(value):
            text = f"{price.normalize():f}"
            if not PRICE.fullmatch(text):
                raise _ShapeError(f"the price {text} has too many digits")
            yield PriceRow(
                **start,
                unit="1M_tokens",
                leaf=leaf,
                price=Decimal(text),
                currency="USD",
                from_ns=span[0],
                to_ns=span[1],
                tier=tier,
                context_from=least,
                context_to=most,
                where=f"{SOURCE}!{start['key']}!{leaf}",
            )


def _bands(value: Any) -> list[tuple[tuple[int, int], Decimal]]:  # noqa: ANN401
    """Prices by input tokens; a step holds above its start, for all tokens of the call."""
    if isinstance(value, Decimal):
        return [((0, 0), value)]
    steps = [(0, value.base), *((tier.start + 1, tier.price) for tier in value.tiers)]
    ends = [*(least for least, _ in steps[1:]), 0]
    return [((least, end), price) for (least, price), end in zip(steps, ends, strict=True)]
