"""Why a request costs what it costs: its attempts, every line ever known, prices, the rule."""

from decimal import Decimal
from typing import Any

import msgspec

from fungible.errors import InputError
from fungible.ledger.charging import Charge, charge, places
from fungible.ledger.costing import amount_of
from fungible.ledger.explain_steps import (
    CacheCredit,
    ExplainedSteps,
    cache_credit,
    explain_steps,
)
from fungible.ledger.prices import LEAVES, PriceBook, PriceRow
from fungible.ledger.queries import Queryable
from fungible.ledger.rates import Rate

RULES = {
    "tokens": "tokens of each leaf × price per million tokens at the attempt's start, exact",
    "steps": (
        "each step of the engine is shared by its requests: their own prefill, decode and kv by"
        " the fitted coefficients, and an equal share of the fixed part (its Shapley value), in"
        " proportion to the time that the step took; attempts plus idle equal price × hours to"
        " the last digit"
    ),
    "steps_equal": (
        "each step of the engine is shared equally by its requests: its run has no fit that"
        " explains enough; attempts plus idle equal price × hours to the last digit"
    ),
    "class": (
        "the busy time of the window, in proportion to each attempt's tokens weighted by class:"
        " no steps are known; attempts plus idle equal price × hours to the last digit"
    ),
    "time": (
        "each instant of the lease is shared equally by the attempts active then, per window of "
        "a minute; attempts plus idle equal price × hours to the last digit"
    ),
    "unpriced": (
        "no price of this backend covers the attempt, no lease covers its time, or a token "
        "count is unknown; unknown is not zero"
    ),
}


class ExplainedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One cost line. `current` is false once a newer line says otherwise."""

    window_start_ns: int
    lease_id: str
    amount: Decimal
    currency: str
    basis: str
    price_source: str
    rule: str
    fit: str
    known_ns: int
    withdrawn: bool
    current: bool


class ExplainedPart(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one leaf at one price. `original` is in the price's own currency.

    `rates` are what converted it, none where nothing was.
    """

    leaf: str
    sku: str
    tokens: int
    price: Decimal
    where: str
    original: Decimal
    original_currency: str
    rates: list[Rate]
    amount: Decimal
    currency: str


class ExplainedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: what it used, what is known of its cost, and by which rules.

    `steps` is its part of the engine's steps where these decide, `cache_credit` what reading
    from the prompt cache spared.

    Attributes:
        tier, region: As the answer states them; they choose among prices.
        parts: How its tokens are priced by the book at hand; empty for time.
        unpriced: Why nobody can say what it cost; empty when somebody can.
    """

    attempt_id: str
    attempt_no: int
    backend: str
    status: str
    started_ns: int
    ended_ns: int
    usage: dict[str, int | None]
    usage_source: str
    tier: str
    region: str
    cost: Decimal | None
    currency: str
    lines: list[ExplainedLine]
    prices: list[PriceRow]
    parts: list[ExplainedPart]
    rule: str
    unpriced: str = ""
    steps: ExplainedSteps | None = None
    cache_credit: CacheCredit | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A request's cost; `None` when no attempt has a price."""

    request_id: str
    cost: Decimal | None
    unpriced: int
    attempts: list[ExplainedAttempt]


def explain(source: Queryable, book: PriceBook, request_id: str) -> Explanation:
    """Everything behind the cost of one request.

    Raises:
        InputError: The ledger has no such request.
    """
    attempts = source.query(
        "SELECT * FROM attempts WHERE request_id = {id:String} ORDER BY attempt_no",
        {"id": request_id},
    ).dicts()
    if not attempts:
        raise InputError(
            f"the ledger has no request {request_id!r}",
            hint="take one from: fungible cost sql 'SELECT request_id FROM attempts LIMIT 5'",
        )
    lines = source.query(
        "SELECT * FROM cost_lines WHERE has({ids:Array(String)}, attempt_id)"
        " ORDER BY window_start_ns, lease_id, known_ns",
        {"ids": [row["attempt_id"] for row in attempts]},
    ).dicts()
    explained = [
        _attempt(
            source, row, [one for one in lines if one["attempt_id"] == row["attempt_id"]], book
        )
        for row in attempts
    ]
    costs = [attempt.cost for attempt in explained if attempt.cost is not None]
    return Explanation(
        request_id=request_id,
        cost=sum(costs, Decimal(0)) if costs else None,
        unpriced=len(explained) - len(costs),
        attempts=explained,
    )


def _attempt(
    source: Queryable, row: dict[str, Any], lines: list[dict[str, Any]], book: PriceBook
) -> ExplainedAttempt:
    newest = {(line["lease_id"], line["window_start_ns"]): line["known_ns"] for line in lines}
    current = [
        line
        for line in lines
        if newest[line["lease_id"], line["window_start_ns"]] == line["known_ns"]
        and not line["withdrawn"]
    ]
    rules = dict.fromkeys(line["rule"] for line in current)
    steps = explain_steps(source, row, current)
    named = {where for line in lines for where in places(line["price_source"])}
    found = charge(book, row)
    return ExplainedAttempt(
        attempt_id=row["attempt_id"],
        attempt_no=row["attempt_no"],
        backend=row["backend"],
        status=row["status"],
        started_ns=row["started_ns"],
        ended_ns=row["ended_ns"],
        usage={leaf: row[leaf] for leaf in LEAVES},
        usage_source=row["usage_source"],
        tier=row["tier"],
        region=row["region"],
        cost=row["cost"],
        currency=row["currency"],
        lines=[_line(line, newest) for line in lines],
        prices=[price for price in book.of_backend(row["backend"]) if price.where in named],
        parts=_parts(found) if isinstance(found, Charge) else [],
        rule="; ".join(RULES[rule] for rule in rules or ("unpriced",)),
        unpriced=_why(book, row, found) if row["cost"] is None and isinstance(found, str) else "",
        steps=steps,
        cache_credit=cache_credit(source, row, steps, next(iter(rules), "")),
    )


def _parts(found: Charge) -> list[ExplainedPart]:
    return [
        ExplainedPart(
            leaf=part.leaf,
            sku=part.price.sku or part.leaf,
            tokens=part.tokens,
            price=part.price.price,
            where=part.price.where,
            original=amount_of(round(part.original)),
            original_currency=part.price.currency,
            rates=list(part.rates),
            amount=amount_of(part.units),
            currency=found.currency,
        )
        for part in found.parts
    ]


def _why(book: PriceBook, row: dict[str, Any], reason: str) -> str:
    """Why an attempt has no price, by the hour or by the token."""
    hours = [one for one in book.of_backend(row["backend"]) if one.unit == "hour"]
    if not any(one.covers(row["started_ns"]) for one in hours):
        return reason
    if not any(one.covers(row["started_ns"]) for one in book.hourly(row["backend"])):
        return f"no exchange rate to {book.currency} for that day"
    return "paid by the hour, and no lease of the backend covers its time"


def _line(line: dict[str, Any], newest: dict[tuple[str, int], int]) -> ExplainedLine:
    key = (line["lease_id"], line["window_start_ns"])
    return ExplainedLine(
        window_start_ns=line["window_start_ns"],
        lease_id=line["lease_id"],
        amount=line["amount"],
        currency=line["currency"],
        basis=line["basis"],
        price_source=line["price_source"],
        rule=line["rule"],
        fit=line["fit"],
        known_ns=line["known_ns"],
        withdrawn=bool(line["withdrawn"]),
        current=newest[key] == line["known_ns"],
    )
