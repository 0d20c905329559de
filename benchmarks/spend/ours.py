"""Our side: events into the ledger, priced, asked; and the same rows as CSV for the peer."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fungible.ledger.prices import PriceBook
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store
from spend import questions

END_S = 1_795_000_000 // 86_400 * 86_400  # the events end at a midnight
DAYS = 60
FROM_S = END_S - 30 * 86_400
WEEK_S = END_S - 7 * 86_400
PARAMS: dict[str, Any] = {"from_s": FROM_S, "week_s": WEEK_S, "customer": "customer-0007"}
CHUNK = 250_000  # what an insert and the views behind it can hold in the engine's 2 GB
BACKENDS = ("hosted-a", "hosted-b", "own-h100", "own-mi300")

# Deterministic: every column comes from a hash of the row's number. Customers and features are
# few that are large and many that are small (log-uniform ranks); days have a daytime.
_EVENTS = """
INSERT INTO attempt_events (attempt_id, request_id, attempt_no, role, kind, endpoint, model,
    backend, backend_kind, accelerator, region, owner, key, customer, feature, session, streamed,
    started_ns, first_token_ns, ended_ns, status, http_status, finish_reason, in_uncached,
    in_cache_read, in_cache_write, out_visible, out_reasoning, usage_source, output_hash,
    output_chars)
SELECT
    concat('att_', lower(hex(sipHash128(number, 1)))) AS attempt_id,
    concat('req_', lower(hex(sipHash128(number, 2)))) AS request_id,
    0, 'first', 'serve', 'chat/completions', ['assistant', 'coder', 'vision'][1 + h % 7 % 3],
    ['hosted-a', 'hosted-b', 'own-h100', 'own-mi300'][1 + cityHash64(number, 5) % 11 % 4],
    'openai_http', 'h100', 'eu-1', concat('team-', toString(f % 6)),
    concat('key-', toString(f % 12)),
    concat('customer-', leftPad(toString(toUInt32(pow(5000, h % 1000003 / 1000003))), 4, '0')),
    concat('feature-', leftPad(toString(f), 2, '0')),
    concat('ses_', lower(hex(cityHash64(intDiv(number, 6), 9)))), true,
    (toInt64({end:Int64}) - {days:Int64} * 86400) * 1000000000
        + toInt64((number + (h % 997) / 997) * {days:Int64} * 86400e9 / {rows:Int64}) AS s,
    s + 80000000 + toInt64(exp(h % 4001 / 1000) * 1e7) AS t,
    t + out * 9000000 AS ended, if(h % 251 = 0, 'error', 'ok'), 200, 'stop',
    50 + toInt64(exp(h % 8009 / 1000)) AS tin, if(h % 3 = 0, 1024, 0), 0, out, 0, 'provider_final',
    lower(hex(h)), out * 4
FROM
(
    SELECT number, cityHash64(number, 3) AS h,
        toUInt32(pow(24, cityHash64(number, 4) % 1009 / 1009)) AS f,
        20 + toInt64(exp(cityHash64(number, 6) % 7001 / 1000)) AS out
    FROM numbers({first:UInt64}, {count:UInt64})
)
"""
# The lines that pricing by the token would write, for more rows than are priced one by one.
_LINES = """
INSERT INTO cost_lines (attempt_id, backend, issuer, window_start_ns, amount, delta, at_ns, kind,
    model, feature, customer, owner, tokens, priced, currency, basis, rule, parts, price_source,
    known_ns)
SELECT attempt_id, backend, backend, started_ns,
    input_tokens * toDecimal128('0.00000015', 18) + output_tokens * toDecimal128('0.0000006', 18)
        AS spent,
    spent, started_ns, kind, model, feature, customer, owner, input_tokens + output_tokens, 1,
    'USD', 'contracted', 'tokens',
    map('in_uncached', input_tokens * toDecimal128('0.00000015', 18), 'out_visible',
        output_tokens * toDecimal128('0.0000006', 18)), 'prices.csv:2', ended_ns
FROM
(
    SELECT *, in_uncached + in_cache_read AS input_tokens, out_visible AS output_tokens
    FROM attempt_events WHERE started_ns >= {low:Int64} AND started_ns < {high:Int64}
)
"""
# What the peer would have written about the same calls.
_CSV = """
SELECT request_id, 'acompletion', key, ifNull(cost, 0),
    input_tokens + output_tokens, input_tokens, output_tokens,
    fromUnixTimestamp64Nano(started_ns, 'UTC'), fromUnixTimestamp64Nano(ended_ns, 'UTC'),
    fromUnixTimestamp64Nano(assumeNotNull(first_token_ns), 'UTC'), model, backend, model, 'openai',
    backend, owner,
    concat('{"user_api_key":"', key, '","usage_object":{"prompt_tokens":', toString(input_tokens),
        ',"completion_tokens":', toString(output_tokens), '}}'),
    'False', '', concat('["', feature, '"]'), owner, customer, '10.0.0.1', session, status
FROM attempts WHERE started_ns >= {low:Int64} AND started_ns < {high:Int64}
"""


def generate(store: Store, rows: int) -> float:
    """Insert the events with the rollups that follow them; seconds."""
    began = time.perf_counter()
    for first in range(0, rows, CHUNK):
        params = {"end": END_S, "days": DAYS, "rows": rows, "first": first}
        store.command(_filled(_EVENTS, params | {"count": min(CHUNK, rows - first)}))
    return time.perf_counter() - began


def price_book(folder: Path) -> PriceBook:
    """Prices of every backend."""
    lines = ["key,unit,leaf,price,currency"]
    for at, name in enumerate(BACKENDS):
        lines += [f"{name},1M_tokens,input,0.{15 + at},USD", f"{name},1M_tokens,output,0.6{at},USD"]
    path = folder / "prices.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_prices(path)


def price(store: Store, book: PriceBook) -> float:
    """Price everything as control does; seconds."""
    began = time.perf_counter()
    reprice(store, book, time.time_ns())
    return time.perf_counter() - began


def write_lines(store: Store) -> float:
    """Cost lines of every attempt by SQL instead of by pricing; seconds."""
    began = time.perf_counter()
    for low, high in _days():
        store.command(_filled(_LINES, {"low": low, "high": high}))
    return time.perf_counter() - began


def write_csv(store: Store, folder: Path) -> list[Path]:
    """The rows for the peer, a file per day of events."""
    files = []
    for day, (low, high) in enumerate(_days()):
        path = folder / f"{day}.csv"
        span = {"low": low, "high": high}
        store.command(f"{_filled(_CSV, span)} INTO OUTFILE '{path}' FORMAT CSV")
        files.append(path)
    return files


def _days() -> Iterator[tuple[int, int]]:
    """The days of the events as `[low, high)` in ns; the last one takes what begins after it."""
    for day in range(DAYS):
        low = (END_S - (DAYS - day) * 86_400) * 1_000_000_000
        yield low, low + 86_400 * 1_000_000_000 + (day == DAYS - 1) * 10**15


def settled(store: Store, patience_s: float = 120.0) -> None:
    """Wait until the engine has no more parts to merge, as a ledger has that stands for a while."""
    until, calm = time.monotonic() + patience_s, 0
    while time.monotonic() < until and calm < 5:
        merging = store.query("SELECT count() FROM system.merges").rows[0][0]
        calm = 0 if merging else calm + 1
        time.sleep(0.5)


def ask(store: Store, sqls: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each question, `rounds` times."""
    found: dict[str, list[float]] = {}
    for name, sql in sqls.items():
        store.query(sql, _used(sql))  # warm, as a page that is watched
        for _ in range(rounds):
            began = time.perf_counter()
            store.query(sql, _used(sql))
            found.setdefault(name, []).append(round((time.perf_counter() - began) * 1000, 2))
    return found


def answers(store: Store) -> dict[str, bool]:
    """Whether rollups and rows give the same answer, digit by digit (sketches left out)."""
    same = {}
    for name in (questions.NAMES[0], questions.NAMES[1], questions.NAMES[3], questions.NAMES[4]):
        rolled, raw = questions.ROLLED[name], questions.RAW[name]
        same[name] = store.query(rolled, _used(rolled)).rows == store.query(raw, _used(raw)).rows
    return same


def disk(store: Store) -> dict[str, int]:
    """Bytes of each table's active parts."""
    rows = store.query(
        "SELECT table, toInt64(sum(bytes_on_disk)) FROM system.parts"
        " WHERE active AND database = currentDatabase() GROUP BY table ORDER BY 2 DESC"
    ).rows
    return {name: size for name, size in rows if size > 100_000}


def _used(sql: str) -> dict[str, Any]:
    return {name: value for name, value in PARAMS.items() if f"{{{name}:" in sql}


def _filled(sql: str, params: Mapping[str, int]) -> str:
    for name, value in params.items():
        for kind in ("Int64", "UInt64"):
            sql = sql.replace(f"{{{name}:{kind}}}", str(value))
    return sql
