"""One reading of the ledger, the configuration and the active routes: a `Snapshot`."""

import json
import re
import shlex
import time
from collections.abc import Iterable, Mapping
from decimal import Decimal, localcontext
from typing import Any

import msgspec

from fungible.config import Config
from fungible.dashboard import queries
from fungible.dashboard.snapshot import (
    BUCKET_S,
    COST_SPAN_S,
    NOW_S,
    SERIES_S,
    WINDOW_S,
    BackendRow,
    BackendSeries,
    Edge,
    MigrationTimeline,
    ReplayRow,
    RouteCard,
    Routes,
    Series,
    Snapshot,
    SpendRow,
    Totals,
    VerdictCard,
)
from fungible.errors import ConfigError
from fungible.ledger.sheets import load_book
from fungible.ledger.store import Store
from fungible.routing.table import decode_table, initial_table

Row = dict[str, Any]
NS = 1_000_000_000
SHIP_S = 2
"""How long rows may take from a spool to the ledger; a bucket is drawn once that has passed."""

SPEND_ROWS = 12
_SIMULATED = re.compile(r"\b(example|simulat|demo)", re.IGNORECASE)


def read_snapshot(store: Store, config: Config, now_ns: int | None = None) -> Snapshot:
    """What the page shows now. Blocks for as long as the ledger's engine needs.

    Raises:
        QueryError: The ledger's schema is not the one of this release.
        UnavailableError: The ledger cannot be reached.
    """
    now = time.time_ns() if now_ns is None else now_ns
    # The currency with the most lines is the page's; the others are only named.
    currency, *others = [row[0] for row in store.query(queries.CURRENCIES).rows] or [""]
    simulated, problem = simulated_prices(config)
    params: dict[str, Any] = {
        "currency": currency,
        "window_from": now - WINDOW_S * NS,
        "minute_from": now - 60 * NS,
        "now_from": now - NOW_S * NS,
        "began_from": _began(store, now - WINDOW_S * NS),
    }
    groups = store.query(queries.BACKENDS, params).dicts()
    idle = store.query(queries.IDLE, params).dicts()
    verdicts = [_verdict(row) for row in store.query(queries.VERDICTS).dicts()]
    routes = read_routes(config)
    return Snapshot(
        at_ms=_ms(now),
        currency=currency,
        other_currencies=others,
        simulated_prices=simulated,
        price_problem=problem,
        try_it=try_it(config),
        totals=_totals(groups, idle),
        backends=_backends(groups, idle, verdicts, routes, config),
        series=_series(store, params, now),
        spend=_spend(store.query(queries.SPEND, params).dicts()),
        verdicts=verdicts,
        migrations=_migrations(store.query(queries.MIGRATIONS).dicts()),
        replays=[_replay(row) for row in store.query(queries.REPLAYS).dicts()],
        routes=routes,
    )


def read_routes(config: Config) -> Routes:
    """The active route table, or the configuration's own when none was activated yet."""
    path = config.home_path() / "run" / "routes.json"
    problem = ""
    table = initial_table(config)
    try:
        table = decode_table(path.read_bytes(), str(path))
    except FileNotFoundError:
        pass  # nothing was activated yet: the configuration's routes are the active ones
    except (OSError, ConfigError) as error:
        problem = f"the active routes cannot be read: {error}"
    cards = []
    for model, route in sorted(table.routes.items()):
        total = sum(route.weights.values())
        shares = {name: weight / total for name, weight in route.weights.items() if weight > 0}
        card = RouteCard(model=model, reference=route.reference, shares=shares)
        if route.shadow is not None:
            card.shadow, card.shadow_share = route.shadow.backend, route.shadow.share
        cards.append(card)
    return Routes(version=table.version, reason=table.reason, models=cards, problem=problem)


def try_it(config: Config) -> str:
    """A `curl` command that sends one request through the gateway."""
    model = next(iter(sorted(config.route)), "MODEL")
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    host = f"[{config.gateway.host}]" if ":" in config.gateway.host else config.gateway.host
    parts = ["curl", f"http://{host}:{config.gateway.port}/v1/chat/completions"]
    if config.key:
        parts += ["-H", '"Authorization: Bearer $FUNGIBLE_API_KEY"']
    parts += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
    return " ".join(parts)


def simulated_prices(config: Config) -> tuple[list[str], str]:
    """Price keys in use whose `source` or `note` says that they are examples, and a problem."""
    try:
        book = load_book(config)
    except ConfigError as error:
        return [], f"the price sheet cannot be read: {error.message}"
    rows = [row for name in config.backend for row in book.of_backend(name)]
    marked = {row.key for row in rows if _SIMULATED.search(f"{row.source} {row.note}")}
    return sorted(marked), ""


def _totals(groups: list[Row], idle: list[Row]) -> Totals:
    serving = [row for row in groups if row["serving"]]
    proving = [row for row in groups if not row["serving"]]
    attempts, errors = _count(serving, "attempts"), _count(serving, "errors")
    cost, served = _amount(groups, "spent"), _amount(serving, "spent")
    unattributed = _amount(serving, "unattributed")
    return Totals(
        requests=_count(serving, "requests"),
        attempts=_count(groups, "attempts"),
        errors=errors,
        error_share=errors / attempts if attempts else None,
        requests_per_s=_count(groups, "now_requests") / NOW_S,
        tokens_per_s=_count(groups, "now_tokens") / NOW_S,
        tokens=_count(groups, "tokens"),
        cost=_text(cost),
        proving_cost=_text(_amount(proving, "spent")),
        idle_cost=_text(_amount(idle, "spent")),
        cost_per_mtok=per_million(cost, _count(groups, "priced_tokens")),
        unpriced=_count(groups, "unpriced"),
        unattributed_cost=_text(unattributed),
        unattributed_share=float(unattributed / served) if served else None,
        last_attempt_ms=max((_ms(row["last_ns"]) for row in groups), default=None),
    )


def _backends(
    groups: list[Row],
    idle: list[Row],
    verdicts: list[VerdictCard],
    routes: Routes,
    config: Config,
) -> list[BackendRow]:
    """Declared backends in the order of the file, then those only the ledger knows."""
    of: dict[str, list[Row]] = {name: [] for name in config.backend}
    for group in groups:
        of.setdefault(group["backend"], []).append(group)
    minute = _count(groups, "minute_attempts")
    newest: dict[str, VerdictCard] = {}
    for verdict in verdicts:
        newest.setdefault(verdict.candidate, verdict)
    rows = []
    for name, parts in of.items():
        unused = _amount((line for line in idle if line["backend"] == name), "spent")
        row = _backend(name, parts, unused, config)
        row.reference = any(route.reference == name for route in routes.models)
        shares = [route.shares.get(name, 0.0) for route in routes.models]
        row.weight = sum(shares) / len(shares) if shares and name in config.backend else None
        row.serve_share = _count(parts, "minute_attempts") / minute if minute else None
        if name in newest:
            row.verdict, row.verdict_id = newest[name].outcome, newest[name].verdict_id
        rows.append(row)
    return rows


def _backend(name: str, parts: list[Row], idle: Decimal, config: Config) -> BackendRow:
    seen = max(parts, key=lambda part: int(part["last_ns"]), default={})
    settings = config.backend.get(name)
    engine = settings.engine if settings else None
    timed = next((part for part in parts if part["serving"] and part["ttft_n"]), None)
    timed = timed or next((part for part in parts if part["ttft_n"]), None)
    cost = _amount(parts, "spent")
    return BackendRow(
        name=name,
        accelerator=seen.get("accelerator") or (settings.accelerator if settings else ""),
        target=seen.get("target") or (engine.target if engine else ""),
        variant=seen.get("variant") or (engine.variant if engine else ""),
        attempts=_count(parts, "attempts"),
        errors=_count(parts, "errors"),
        tokens=_count(parts, "tokens"),
        tokens_per_s=_count(parts, "now_tokens") / NOW_S,
        ttft_p50_ms=timed["ttft"][0] if timed else None,
        ttft_p99_ms=timed["ttft"][1] if timed else None,
        cost=_text(cost),
        idle_cost=_text(idle),
        cost_per_mtok=per_million(cost, _count(parts, "priced_tokens")),
        unpriced=_count(parts, "unpriced"),
    )


def _began(store: Store, ended_from: int) -> int:
    """The earliest start of the attempts that ended after a moment."""
    rows = store.query(queries.BEGAN, {"ended_from": ended_from}).rows
    return int(rows[0][0])


def _series(store: Store, params: Mapping[str, Any], now: int) -> Series:
    """Whole buckets only: the last one ended long enough ago to be in the ledger."""
    bucket_ns, buckets = BUCKET_S * NS, SERIES_S // BUCKET_S
    end = (now - SHIP_S * NS) // bucket_ns * bucket_ns
    start = end - SERIES_S * NS
    window = {"series_from": start, "series_to": end, "bucket_ns": bucket_ns}
    window["began_from"] = _began(store, start)
    points: dict[str, dict[int, Row]] = {}
    for row in store.query(queries.SERIES, {**params, **window}).dicts():
        points.setdefault(row["backend"], {})[row["bucket"]] = row
    return Series(
        at_ms=[_ms(start + (index + 1) * bucket_ns) for index in range(buckets)],
        backends={name: _points(rows, buckets) for name, rows in points.items()},
    )


def _points(rows: Mapping[int, Row], buckets: int) -> BackendSeries:
    span = COST_SPAN_S // BUCKET_S
    costs: list[str | None] = []
    for index in range(buckets):
        recent = [rows[at] for at in range(index - span + 1, index + 1) if at in rows]
        costs.append(per_million(_amount(recent, "spent"), _count(recent, "priced_tokens")))
    none: Row = {"requests": 0, "out_tokens": 0}
    kept = [rows.get(index, none) for index in range(buckets)]
    return BackendSeries(
        requests_per_s=[row["requests"] / BUCKET_S for row in kept],
        tokens_per_s=[row["out_tokens"] / BUCKET_S for row in kept],
        cost_per_mtok=costs,
    )


def _spend(rows: list[Row]) -> list[SpendRow]:
    """The dearest pairs, then one row for all others, then what proving cost."""
    serving = [row for row in rows if row["serving"]]
    proving = [row for row in rows if not row["serving"]]
    listed = [_spend_row([row]) for row in serving[:SPEND_ROWS]]
    if len(serving) > SPEND_ROWS:
        listed.append(_spend_row(serving[SPEND_ROWS:], rest=True))
    if proving:
        row = _spend_row(proving)
        row.purpose = "prove"
        listed.append(row)
    return listed


def _spend_row(rows: list[Row], *, rest: bool = False) -> SpendRow:
    return SpendRow(
        feature="" if rest else rows[0]["for_feature"],
        customer="" if rest else rows[0]["for_customer"],
        rest=rest,
        requests=_count(rows, "requests"),
        attempts=_count(rows, "attempts"),
        tokens=_count(rows, "tokens"),
        cost=_text(_amount(rows, "spent")),
        unpriced=_count(rows, "unpriced"),
    )


def _verdict(row: Row) -> VerdictCard:
    times = {"decided_ms": _ms(row["decided_ns"]), "expires_ms": _ms(row["expires_ns"])}
    return msgspec.convert({**row, **times}, VerdictCard)


def _replay(row: Row) -> ReplayRow:
    return msgspec.convert({**row, "at_ms": _ms(row["at_ns"])}, ReplayRow)


def _migrations(rows: list[Row]) -> list[MigrationTimeline]:
    """Newest migration first; within one, its edges in the order they were taken."""
    found: dict[str, MigrationTimeline] = {}
    for row in rows:
        key = row["migration_id"]
        if key not in found:
            found[key] = msgspec.convert({**row, "edges": []}, MigrationTimeline)
        edge = msgspec.convert({**row, "at_ms": _ms(row["at_ns"])}, Edge)
        found[key].edges.append(edge)
    return sorted(found.values(), key=lambda item: item.edges[-1].at_ms, reverse=True)


def per_million(amount: Decimal, tokens: int) -> str | None:
    """`amount` per million `tokens` with 18 decimals; `None` without tokens."""
    if not tokens:
        return None
    with localcontext(prec=60):
        return _text((amount * 1_000_000 / tokens).quantize(Decimal(1).scaleb(-18)))


def _text(amount: Decimal | int) -> str:
    """Digits and a point, never an exponent."""
    text = format(Decimal(amount), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _count(rows: Iterable[Row], field: str) -> int:
    return sum(int(row[field]) for row in rows)


def _amount(rows: Iterable[Row], field: str) -> Decimal:
    with localcontext(prec=60):
        return sum((row[field] for row in rows), Decimal(0))


def _ms(ns: int) -> int:
    return ns // 1_000_000
