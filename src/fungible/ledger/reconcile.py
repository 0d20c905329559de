"""Reconciliation: billed = priced + known gaps + unexplained, by issuer, SKU and day.

Priced is what our cost lines say: tokens by the SKU of their price, and the time of leases,
idle or not. Billed is what invoice lines say, in the ledger's currency by the rate of the day.
Only what is billed for use is compared with what was priced; taxes, credits, purchases and
adjustments are known gaps in full. An issuer that bills a SKU by longer periods than a day is
compared over those.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import msgspec

from fungible.ledger.costing import amount_of
from fungible.ledger.money import Basis, Money, total
from fungible.ledger.prices import Call, PriceBook
from fungible.ledger.queries import Queryable, ratio
from fungible.ledger.rates import DAY_NS, RateBook, day_ns, day_of
from fungible.ledger.store import EVERYTHING

TARGET = Decimal("0.01")
CLOSES_AFTER_NS = 30 * DAY_NS
State = Literal["estimated", "provisional", "invoiced", "closed", "restated"]
# issuer, SKU, first day, days
Key = tuple[str, str, date, int]


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """One SKU of one issuer on one day, or over a longer billed period.

    Attributes:
        basis: Of `priced`: `contracted` for tokens, `effective` for time.
        billed: For use; `None` while no invoice line says anything.
        priced: By our own count.
        not_final: How much of that rests on token counts that are not the provider's last.
        unexplained: `billed - priced`; `None` while nothing is billed.
    """

    issuer: str
    sku: str
    day: date
    days: int
    state: State
    basis: str
    billed: Decimal | None
    priced: Decimal
    not_final: Decimal
    unexplained: Decimal | None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Billed, and known not to be use: `tax`, `credit`, `purchase` or `adjustment`."""

    issuer: str
    kind: str
    day: date
    amount: Decimal


class Unpriced(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts that nobody can price. What they cost is unknown, and not estimated."""

    issuer: str
    day: date
    attempts: int
    exposure: Decimal | None = None


class IssuerSum(msgspec.Struct, frozen=True, kw_only=True):
    """One issuer: `billed = priced + gaps + unexplained`, over what has been billed.

    Attributes:
        state: The least final of its rows.
        billed: Everything, taxes and credits included; `None`: no invoice.
        priced: Of what is billed for use.
        open: Priced, and not billed yet: periods that no invoice covers.
        share: |unexplained| / |billed for use|.
        kappa: Billed for use / priced: published, never applied.
        within: Whether the share is at most 1 %.
    """

    issuer: str
    state: State
    billed: Decimal | None
    priced: Decimal
    gaps: Decimal
    unexplained: Decimal | None
    open: Decimal
    unpriced: int
    share: Decimal | None
    kappa: Decimal | None
    within: bool


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in one currency. `problems` are lines that could not be compared.

    Attributes:
        outcome: `within` the target, `beyond` it for some issuer, `inconclusive` without an
            invoice, `empty` where nothing was priced or billed.
    """

    since_ns: int
    until_ns: int
    currency: str
    outcome: Literal["within", "beyond", "inconclusive", "empty"]
    target: Decimal
    issuers: list[IssuerSum]
    rows: list[Reconciled]
    gaps: list[Gap]
    unpriced: list[Unpriced]
    problems: list[str]


_TOKENS = """
SELECT c.issuer AS issuer, part.1 AS sku, c.currency AS currency,
    toDate(fromUnixTimestamp64Nano(c.window_start_ns, 'UTC')) AS day,
    sum(part.2) AS priced,
    sumIf(part.2, c.attempt_id IN (
        SELECT attempt_id FROM all_attempts WHERE usage_source != 'provider_final'
    )) AS not_final
FROM costs AS c
ARRAY JOIN CAST(c.parts, 'Array(Tuple(String, Decimal(38, 18)))') AS part
WHERE c.lease_id = '' AND c.window_start_ns >= {since:Int64} AND c.window_start_ns < {until:Int64}
GROUP BY issuer, sku, currency, day
"""
_HOURS = """
SELECT backend, currency, day, sum(amount) AS priced FROM
(
    SELECT argMax(l.backend, l.known_ns) AS backend, argMax(l.currency, l.known_ns) AS currency,
        toDate(fromUnixTimestamp64Nano(l.window_start_ns, 'UTC')) AS day,
        argMax(l.amount, l.known_ns) AS amount
    FROM cost_lines AS l
    WHERE l.lease_id != ''
        AND l.window_start_ns >= {since:Int64} AND l.window_start_ns < {until:Int64}
    GROUP BY l.attempt_id, l.lease_id, l.window_start_ns
    HAVING NOT argMax(l.withdrawn, l.known_ns)
    UNION ALL
    SELECT i.backend, i.currency, toDate(fromUnixTimestamp64Nano(i.window_start_ns, 'UTC')),
        i.amount
    FROM idle AS i
    WHERE i.window_start_ns >= {since:Int64} AND i.window_start_ns < {until:Int64}
)
GROUP BY backend, currency, day
"""
_UNPRICED = """
SELECT a.issuer AS issuer, a.backend AS backend, a.model AS model, count() AS attempts,
    toDate(fromUnixTimestamp64Nano(a.started_ns, 'UTC')) AS day
FROM attempts AS a
WHERE a.cost_status = 'unpriced'
    AND a.started_ns >= {since:Int64} AND a.started_ns < {until:Int64}
GROUP BY issuer, backend, model, day
"""
# Lines without an invoice are provisional (a billing period stands in its place): they fall away
# for a day that an invoice covers.
_BILLED = """
WITH newest AS
(
    SELECT i.*, i.correction OR (i.issuer, i.invoice, i.line) IN
        (
            SELECT issuer, invoice, line FROM invoice_lines
            GROUP BY issuer, invoice, line HAVING uniqExact(digest) > 1
        ) AS restated,
        NOT match(i.invoice, '^($|[0-9]{4}-[0-9]{2}-[0-9]{2})') AS invoiced
    FROM invoices AS i
)
SELECT issuer, sku, category, currency, start_ns, end_ns, invoiced,
    sum(billed) AS billed, max(restated) AS restated
FROM newest
WHERE start_ns >= {since:Int64} AND start_ns < {until:Int64}
    AND NOT (NOT invoiced AND (issuer, sku, category, intDiv(start_ns, 86400000000000)) IN
        (SELECT issuer, sku, category, intDiv(start_ns, 86400000000000) FROM newest
            WHERE invoiced))
GROUP BY issuer, sku, category, currency, start_ns, end_ns, invoiced
ORDER BY issuer, sku, start_ns, end_ns, category, currency, invoiced
"""


class _Billed(msgspec.Struct):
    amount: Money
    states: set[State]


def reconcile(
    source: Queryable, book: PriceBook, rates: RateBook, *, span: tuple[int, int], now_ns: int
) -> Reconciliation:
    """Compare what was billed with what was priced.

    Args:
        source: The ledger.
        book: Names issuer and SKU of hourly prices, and the currency.
        rates: Convert invoices in other currencies.
        span: `[since, until)` in ns, by charge period and start of attempt.
        now_ns: Decides what is closed.
    """
    params = {"since": span[0], "until": span[1]}
    lines = source.query(_BILLED, params, max_rows=EVERYTHING).dicts()
    currency = book.currency or (lines[0]["currency"] if lines else "")
    problems: list[str] = []
    billed, gaps = _billed(lines, currency, rates, now_ns, problems)
    days = _longest(billed)
    priced, not_final = _priced(
        source, book, params, currency=currency, longer=days, problems=problems
    )
    rows = [
        _row(key, billed.get(key), priced.get(key), not_final.get(key), currency)
        for key in sorted(billed.keys() | priced.keys())
    ]
    unpriced = _unpriced(source, book, params)
    names = {row.issuer for row in rows} | {gap.issuer for gap in gaps}
    names |= {one.issuer for one in unpriced}
    issuers = [_sum(name, rows, gaps, unpriced, currency) for name in sorted(names)]
    return Reconciliation(
        since_ns=span[0],
        until_ns=span[1],
        currency=currency,
        outcome=_outcome(issuers, problems),
        target=TARGET,
        issuers=issuers,
        rows=rows,
        gaps=gaps,
        unpriced=unpriced,
        problems=problems,
    )


def _billed(
    lines: Iterable[Mapping[str, Any]],
    currency: str,
    rates: RateBook,
    now_ns: int,
    problems: list[str],
) -> tuple[dict[Key, _Billed], list[Gap]]:
    found: dict[Key, _Billed] = {}
    gaps: defaultdict[tuple[str, str, date], Money] = defaultdict(lambda: Money("billed", currency))
    for line in lines:
        day = day_of(line["start_ns"])
        amount = _converted(line["billed"], line["currency"], currency, rates, day)
        if amount is None:
            problems.append(
                f"{line['issuer']} {line['sku']} {day}: no exchange rate from {line['currency']}"
                f" to {currency}"
            )
            continue
        money = Money("billed", currency, amount)
        if line["category"] != "usage":
            key = (line["issuer"], line["category"], day)
            gaps[key] = gaps[key] + money
            continue
        length = max(1, -(-(line["end_ns"] - day_ns(day)) // DAY_NS))
        at = found.setdefault(
            (line["issuer"], line["sku"], day, length), _Billed(Money("billed", currency), set())
        )
        at.amount = at.amount + money
        at.states.add(_state(line, now_ns))
    told = [
        Gap(issuer=issuer, kind=kind, day=day, amount=money.amount)
        for (issuer, kind, day), money in sorted(gaps.items())
    ]
    return found, told


def _state(line: Mapping[str, Any], now_ns: int) -> State:
    if line["restated"]:
        return "restated"
    if not line["invoiced"]:
        return "provisional"
    return "closed" if line["end_ns"] + CLOSES_AFTER_NS <= now_ns else "invoiced"


def _longest(billed: Mapping[Key, _Billed]) -> dict[tuple[str, str], list[tuple[date, int]]]:
    """Billed periods that are longer than a day, by issuer and SKU."""
    found: defaultdict[tuple[str, str], list[tuple[date, int]]] = defaultdict(list)
    for issuer, sku, day, length in billed:
        if length > 1:
            found[issuer, sku].append((day, length))
    return found


def _priced(
    source: Queryable,
    book: PriceBook,
    params: Mapping[str, int],
    *,
    currency: str,
    longer: Mapping[tuple[str, str], list[tuple[date, int]]],
    problems: list[str],
) -> tuple[dict[Key, Money], dict[Key, Decimal]]:
    priced: dict[Key, Money] = {}
    not_final: dict[Key, Decimal] = {}

    def add(issuer: str, sku: str, day: date, money: Money, unsure: Decimal) -> None:
        if money.currency != currency:
            problems.append(f"{issuer} {sku} {day}: priced in {money.currency} before")
            return
        key = _period(issuer, sku, day, longer)
        priced[key] = priced[key] + money if key in priced else money
        not_final[key] = not_final.get(key, Decimal(0)) + unsure

    for row in source.query(_TOKENS, params, max_rows=EVERYTHING).dicts():
        money = Money("contracted", row["currency"], row["priced"])
        add(row["issuer"], row["sku"], _day(row["day"]), money, row["not_final"])
    for row in source.query(_HOURS, params, max_rows=EVERYTHING).dicts():
        day, money = _day(row["day"]), Money("effective", row["currency"], row["priced"])
        issuer, sku = _of_hours(book, row["backend"], day)
        add(issuer, sku, day, money, Decimal(0))
    return priced, not_final


def _period(
    issuer: str, sku: str, day: date, longer: Mapping[tuple[str, str], list[tuple[date, int]]]
) -> Key:
    for first, length in longer.get((issuer, sku), ()):
        if first <= day < first + timedelta(days=length):
            return issuer, sku, first, length
    return issuer, sku, day, 1


def _of_hours(book: PriceBook, backend: str, day: date) -> tuple[str, str]:
    start = day_ns(day)
    for row in book.hourly(backend):
        if row.from_ns < start + DAY_NS and start < row.to_ns:
            return row.issuer or row.key, row.sku or "hour"
    return backend, "hour"


def _unpriced(source: Queryable, book: PriceBook, params: Mapping[str, int]) -> list[Unpriced]:
    counts: defaultdict[tuple[str, date], int] = defaultdict(int)
    for row in source.query(_UNPRICED, params, max_rows=EVERYTHING).dicts():
        call = Call(backend=row["backend"], at_ns=0, issuer=row["issuer"], model=row["model"])
        prices = book.of_call(call)
        issuer = prices[0].issuer or prices[0].key if prices else row["issuer"] or row["backend"]
        counts[issuer, _day(row["day"])] += row["attempts"]
    return [
        Unpriced(issuer=issuer, day=day, attempts=attempts)
        for (issuer, day), attempts in sorted(counts.items())
    ]


def _row(
    key: Key,
    billed: _Billed | None,
    priced: Money | None,
    not_final: Decimal | None,
    currency: str,
) -> Reconciled:
    issuer, sku, day, days = key
    ours = priced or Money("contracted", currency)
    order: tuple[State, ...] = ("restated", "provisional", "invoiced", "closed")
    state: State = "estimated"
    if billed is not None:
        state = next(one for one in order if one in billed.states)
    return Reconciled(
        issuer=issuer,
        sku=sku,
        day=day,
        days=days,
        state=state,
        basis=ours.basis,
        billed=None if billed is None else billed.amount.amount,
        priced=ours.amount,
        not_final=not_final or Decimal(0),
        unexplained=None if billed is None else billed.amount.minus_priced(ours),
    )


def _sum(
    issuer: str,
    rows: list[Reconciled],
    gaps: list[Gap],
    unpriced: list[Unpriced],
    currency: str,
) -> IssuerSum:
    mine = [row for row in rows if row.issuer == issuer]
    covered = [row for row in mine if row.billed is not None]
    extra = total(
        (Money("billed", currency, gap.amount) for gap in gaps if gap.issuer == issuer),
        "billed",
        currency,
    )
    used = total(
        (Money("billed", currency, row.billed) for row in covered if row.billed is not None),
        "billed",
        currency,
    )
    priced, waiting = (
        _ours(covered, currency),
        _ours([row for row in mine if row.billed is None], currency),
    )
    any_bill = bool(covered) or any(gap.issuer == issuer for gap in gaps)
    unexplained = used.minus_priced(priced)
    share = ratio(abs(unexplained), abs(used.amount)) if covered else None
    order: tuple[State, ...] = ("estimated", "provisional", "restated", "invoiced", "closed")
    states = {row.state for row in mine} or {"estimated"}
    return IssuerSum(
        issuer=issuer,
        state=next(one for one in order if one in states),
        billed=(used + extra).amount if any_bill else None,
        priced=priced.amount,
        gaps=extra.amount,
        unexplained=unexplained if any_bill else None,
        open=waiting.amount,
        unpriced=sum(one.attempts for one in unpriced if one.issuer == issuer),
        share=share,
        kappa=ratio(used.amount, priced.amount) if covered else None,
        within=not unexplained or (share is not None and share <= TARGET),
    )


def _ours(rows: Iterable[Reconciled], currency: str) -> Money:
    basis: dict[str, Basis] = {"contracted": "contracted", "effective": "effective"}
    found = (Money(basis[row.basis], currency, row.priced).as_effective() for row in rows)
    return total(found, "effective", currency)


def _outcome(
    issuers: list[IssuerSum], problems: list[str]
) -> Literal["within", "beyond", "inconclusive", "empty"]:
    if not issuers and not problems:
        return "empty"
    billed = [one for one in issuers if one.billed is not None]
    if problems or not billed:
        return "inconclusive"
    return "within" if all(one.within for one in billed) else "beyond"


def _converted(amount: Decimal, have: str, want: str, rates: RateBook, day: date) -> Decimal | None:
    if have == want:
        return amount
    how = rates.between(have, want, day)
    return None if how is None else amount_of(how.units(Fraction(amount) * 10**18))


def _day(value: object) -> date:
    return date.fromisoformat(str(value))
