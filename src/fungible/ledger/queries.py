"""The questions that finance asks, as SQL, and the arithmetic on their answers.

Ratios are computed here, on exact decimals; rounding is left to whoever displays them. A
ratio whose numerator is incomplete (unpriced attempts) is over the priced part only.
"""

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, Literal, Protocol

import msgspec

from fungible.errors import BasisError
from fungible.ledger.as_known import ATTEMPTS, IDLE
from fungible.ledger.money import Money, total
from fungible.ledger.prices import FOREVER
from fungible.ledger.store import Rows

Dimension = Literal["model", "backend", "feature", "customer", "owner"]
DIMENSIONS: tuple[Dimension, ...] = ("model", "backend", "feature", "customer", "owner")
UNATTRIBUTED = "(unattributed)"
_RATIO = Context(prec=38)
_MILLION = Decimal(1_000_000)


class Queryable(Protocol):
    """Whatever answers SQL: a `Store`, or an `Access`."""

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        readonly: bool = False,
        max_rows: int = 100_000,
    ) -> Rows:
        """Run one statement."""
        ...


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one value of a dimension. `None` money means that nothing of it has a price.

    `per_million_tokens` is over priced attempts with known tokens; the request figures over
    requests with a priced attempt.
    """

    name: str
    requests: int
    attempts: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    currency: str
    per_million_tokens: Decimal | None
    per_request_mean: Decimal | None
    per_request_p50: Decimal | None
    per_request_p99: Decimal | None


class IdleRow(msgspec.Struct, frozen=True, kw_only=True):
    """Paid time of a backend that no attempt used.

    Attributes:
        kind: `reserved_unused`, `headroom`, `stranded`, or `unattributed`: used by requests
            that no attempt stands for.
        owner: Who answers for it; `platform` is nobody in particular.
        hours: Length of the windows that hold such time.
    """

    backend: str
    kind: str
    owner: str
    cost: Decimal
    currency: str
    hours: Decimal


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` by descending cost, `idle` by backend, class and owner, and the sum of both."""

    by: Dimension
    kind: str
    since_ns: int
    until_ns: int
    rows: list[CostRow]
    idle: list[IdleRow]
    total: Decimal
    currency: str
    unpriced: int


class NetCostRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an accepted answer cost on one backend, in the eval runs asked about.

    `accepted` is the sum of scores; `net_cost` is cost / accepted, `None` when nothing was
    accepted or an attempt is unpriced: an incomplete bill must not look cheap.
    """

    backend: str
    items: int
    attempts: int
    unpriced: int
    tokens: int
    accepted: Decimal
    cost: Decimal | None
    currency: str
    net_cost: Decimal | None
    per_million_tokens: Decimal | None


_REPORT = """
SELECT
    name, count() AS requests, sum(r.n) AS attempts, sum(r.un) AS unpriced,
    sum(r.tin) AS input_tokens, sum(r.tout) AS output_tokens,
    sum(r.c) AS cost, arrayFilter(x -> x != '', groupUniqArray(r.cur)) AS currencies,
    sum(r.priced_tokens) AS priced_tokens,
    countIf(r.c IS NOT NULL) AS priced_requests,
    quantileExact(0.5)(r.c) AS p50, quantileExact(0.99)(r.c) AS p99
FROM
(
    SELECT
        a.{column} AS name, a.request_id AS request, count() AS n,
        countIf(a.cost IS NULL) AS un,
        sum(ifNull(a.input_tokens, 0)) AS tin, sum(ifNull(a.output_tokens, 0)) AS tout,
        sum(a.cost) AS c, max(a.currency) AS cur,
        sumIf(ifNull(a.input_tokens, 0) + ifNull(a.output_tokens, 0), a.cost IS NOT NULL)
            AS priced_tokens
    FROM {attempts} AS a
    WHERE a.started_ns >= {{since:Int64}} AND a.started_ns < {{until:Int64}}
        AND ({{kind:String}} = 'all' OR a.kind = {{kind:String}})
    GROUP BY name, request
) AS r
GROUP BY name
ORDER BY cost DESC, name
"""

_IDLE = """
SELECT backend, class AS kind, owner, sum(i.amount) AS cost,
    groupUniqArray(i.currency) AS currencies,
    sum(i.window_end_ns - i.window_start_ns) AS ns
FROM {idle} AS i
WHERE i.window_end_ns > {{since:Int64}} AND i.window_start_ns < {{until:Int64}}
GROUP BY backend, kind, owner ORDER BY cost DESC, backend, kind, owner
"""

_NET = """
SELECT
    i.backend AS backend, i.items AS items, i.accepted AS accepted,
    a.n AS attempts, a.un AS unpriced, a.tokens AS tokens, a.c AS cost, a.cur AS currency
FROM
(
    SELECT backend, count() AS items, sum(toDecimal128(ifNull(score, 0), 12)) AS accepted
    FROM eval_items WHERE has({runs:Array(String)}, run_id) GROUP BY backend
) AS i
LEFT JOIN
(
    SELECT backend, count() AS n, countIf(cost_status = 'unpriced') AS un,
        sum(ifNull(input_tokens, 0) + ifNull(output_tokens, 0)) AS tokens,
        sum(cost) AS c, max(t.currency) AS cur
    FROM attempts AS t WHERE has({runs:Array(String)}, run_id) GROUP BY backend
) AS a ON a.backend = i.backend
ORDER BY backend
"""


def cost_report(
    source: Queryable,
    by: Dimension,
    *,
    since_ns: int = 0,
    until_ns: int = FOREVER,
    known_ns: int = FOREVER,
    kind: str = "serve",
) -> CostReport:
    """What was spent in `[since_ns, until_ns)`, by one dimension.

    `kind` `all` counts evals and shadows. Idle time belongs to the backend, whatever kind of
    request is asked about. As it was known at `known_ns`, the same report comes out the same.

    Raises:
        BasisError: Amounts in several currencies: pricing is on its way from one to another.
    """
    now = known_ns == FOREVER
    params = {"since": since_ns, "until": until_ns, "kind": kind, "known": known_ns}
    sql = _REPORT.format(column=by, attempts="attempts" if now else ATTEMPTS)
    found = source.query(sql, params).dicts()
    unused = source.query(_IDLE.format(idle="idle" if now else IDLE), params).dicts()
    currency = _one_currency([*found, *unused])
    rows = [_cost_row(row | {"currency": currency if row["currencies"] else ""}) for row in found]
    idle = [_idle_row(row | {"currency": currency}) for row in unused]
    costs = [row.cost for row in rows if row.cost is not None] + [row.cost for row in idle]
    # What is paid by the token counts as effective cost as it is, see `Money.as_effective`.
    spent = total((Money("effective", currency, one) for one in costs), "effective", currency)
    return CostReport(
        by=by,
        kind=kind,
        since_ns=since_ns,
        until_ns=until_ns,
        rows=rows,
        idle=idle,
        total=spent.amount,
        currency=currency,
        unpriced=sum(row.unpriced for row in rows),
    )


def _one_currency(rows: list[dict[str, Any]]) -> str:
    found = sorted({name for row in rows for name in row["currencies"]})
    if len(found) > 1:
        raise BasisError(f"costs are in {' and '.join(found)}, which do not add up")
    return found[0] if found else ""


def net_cost(source: Queryable, run_ids: list[str]) -> list[NetCostRow]:
    """Net cost per accepted answer of each backend in these eval runs."""
    found = []
    for row in source.query(_NET, {"runs": run_ids}).dicts():
        cost, complete = row["cost"], row["attempts"] > 0 and row["unpriced"] == 0
        found.append(
            NetCostRow(
                backend=row["backend"],
                items=row["items"],
                attempts=row["attempts"],
                unpriced=row["unpriced"],
                tokens=row["tokens"],
                accepted=row["accepted"],
                cost=cost,
                currency=row["currency"],
                net_cost=ratio(cost, row["accepted"]) if complete else None,
                per_million_tokens=ratio(cost, row["tokens"], _MILLION) if complete else None,
            )
        )
    return found


def ratio(
    part: Decimal | None, whole: Decimal | int | None, times: Decimal = Decimal(1)
) -> Decimal | None:
    """`part / whole * times` to 38 digits; `None` when unknown or divided by nothing."""
    if part is None or not whole:
        return None
    return _RATIO.divide(_RATIO.multiply(part, times), Decimal(whole))


def _cost_row(row: dict[str, Any]) -> CostRow:
    cost = row["cost"]
    return CostRow(
        name=row["name"] or UNATTRIBUTED,
        requests=row["requests"],
        attempts=row["attempts"],
        unpriced=row["unpriced"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost=cost,
        currency=row["currency"],
        per_million_tokens=ratio(cost, row["priced_tokens"], _MILLION),
        per_request_mean=ratio(cost, row["priced_requests"]),
        per_request_p50=row["p50"] if cost is not None else None,
        per_request_p99=row["p99"] if cost is not None else None,
    )


def _idle_row(row: dict[str, Any]) -> IdleRow:
    hours = ratio(Decimal(row["ns"]), 3_600_000_000_000) or Decimal(0)
    return IdleRow(
        backend=row["backend"],
        kind=row["kind"],
        owner=row["owner"],
        cost=row["cost"],
        currency=row["currency"],
        hours=hours,
    )
