"""What the page shows: one record, made once a second for all viewers.

Money is a decimal string in `currency`, never a float; the page rounds it once, at display.
Times are milliseconds since the Unix epoch (JavaScript's integers end at 2^53, before
nanoseconds do). `None` means unknown, which is not 0.
"""

from typing import Literal

import msgspec

WINDOW_S = 86_400
"""Counts and money cover attempts that ended in the last 24 hours."""

NOW_S = 10
"""Rates called "now" cover the last 10 seconds."""

SERIES_S = 600
"""The charts cover the last 10 minutes."""

BUCKET_S = 5
"""One point of a chart."""

COST_SPAN_S = 60
"""Each point of the cost chart covers this many seconds up to it."""

Purpose = Literal["serve", "prove"]


class Totals(msgspec.Struct, kw_only=True):
    """The tiles.

    Attributes:
        requests: Client requests (kind `serve`), each counted once.
        attempts: Upstream calls of every kind.
        error_share: Failed or interrupted part of the `serve` attempts.
        tokens: Input plus output tokens of every kind.
        cost: Priced attempts of every kind; idle time is beside it, not in it.
        proving_cost: The part of `cost` spent on evals, shadow traffic, replays and judges.
        cost_per_mtok: `cost` of priced attempts per million of their tokens, in plus out.
        unpriced: Attempts without a price: counted, never taken as free.
        unattributed_cost: Part of the cost of `serve` without a feature or a customer.
    """

    requests: int = 0
    attempts: int = 0
    errors: int = 0
    error_share: float | None = None
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    tokens: int = 0
    cost: str = "0"
    proving_cost: str = "0"
    idle_cost: str = "0"
    cost_per_mtok: str | None = None
    unpriced: int = 0
    unattributed_cost: str = "0"
    unattributed_share: float | None = None
    last_attempt_ms: int | None = None


class BackendRow(msgspec.Struct, kw_only=True):
    """One backend: declared in the configuration, seen in the ledger, or both.

    Attributes:
        reference: It is the reference of a route.
        weight: Its share by the active routes; `None` when on no route.
        serve_share: Its share of the `serve` attempts of the last minute.
        tokens_per_s: Output tokens a second now, of every kind.
        verdict: Outcome of the newest verdict in which it is the candidate.
    """

    name: str
    accelerator: str = ""
    target: str = ""
    variant: str = ""
    reference: bool = False
    weight: float | None = None
    serve_share: float | None = None
    attempts: int = 0
    errors: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    cost: str = "0"
    idle_cost: str = "0"
    cost_per_mtok: str | None = None
    unpriced: int = 0
    verdict: str | None = None
    verdict_id: str | None = None


class BackendSeries(msgspec.Struct, kw_only=True):
    """One backend's points, oldest first, aligned with `Series.at_ms`."""

    requests_per_s: list[float]
    tokens_per_s: list[float]
    cost_per_mtok: list[str | None]


class Series(msgspec.Struct, kw_only=True):
    """The charts. `at_ms` is the end of each bucket; requests are of kind `serve`."""

    at_ms: list[int] = []
    bucket_s: int = BUCKET_S
    cost_span_s: int = COST_SPAN_S
    backends: dict[str, BackendSeries] = {}


class SpendRow(msgspec.Struct, kw_only=True):
    """What one customer's use of one feature cost. Empty names mean unattributed.

    `purpose` is `prove` for evals, shadow traffic, replays and judges. `rest` marks the row
    that sums all smaller ones.
    """

    feature: str
    customer: str
    purpose: Purpose = "serve"
    rest: bool = False
    requests: int = 0
    attempts: int = 0
    tokens: int = 0
    cost: str = "0"
    unpriced: int = 0


class VerdictCard(msgspec.Struct, kw_only=True):
    """A verdict; see `fungible.contract.events.VerdictEvent`."""

    verdict_id: str
    model: str
    suite: str
    candidate: str
    reference: str
    outcome: str
    items: int
    reference_score: float
    candidate_score: float
    margin: float
    loss_upper: float
    reasons: list[str]
    metrics: dict[str, float]
    decided_ms: int
    expires_ms: int


class Edge(msgspec.Struct, kw_only=True):
    """One step of a migration with the evidence that took it."""

    from_state: str
    to_state: str
    weight: float
    route_version: int
    reason: str
    evidence: dict[str, float]
    at_ms: int


class MigrationTimeline(msgspec.Struct, kw_only=True):
    """One migration, oldest step first."""

    migration_id: str
    model: str
    candidate: str
    reference: str
    edges: list[Edge]


class ReplayRow(msgspec.Struct, kw_only=True):
    """The newest replay of a trace against a backend; times in ms, rates per second."""

    trace: str
    backend: str
    requests: int
    failed: int
    valid: bool
    ttft_p50_ms: float
    ttft_p99_ms: float
    tokens_per_s: float
    at_ms: int


class RouteCard(msgspec.Struct, kw_only=True):
    """One model's route: shares of the weights (they sum to 1), and its shadow."""

    model: str
    reference: str
    shares: dict[str, float]
    shadow: str = ""
    shadow_share: float | None = None


class Routes(msgspec.Struct, kw_only=True):
    """The active route table. `problem` says why it could not be read."""

    version: int = 0
    reason: str = ""
    models: list[RouteCard] = []
    problem: str = ""


class Snapshot(msgspec.Struct, kw_only=True):
    """Everything on the page at one moment.

    Attributes:
        currency: ISO 4217 code of every amount, or empty when nothing is priced.
        other_currencies: Attempts priced in another currency are left out of the amounts.
        simulated_prices: Keys of the price sheet whose source or note says example or simulated.
        price_problem: Why the price sheet could not be read, or empty.
        try_it: A command that sends one request to the gateway.
    """

    at_ms: int
    window_s: int = WINDOW_S
    currency: str = ""
    other_currencies: list[str] = []
    simulated_prices: list[str] = []
    price_problem: str = ""
    try_it: str = ""
    totals: Totals
    backends: list[BackendRow] = []
    series: Series = msgspec.field(default_factory=Series)
    spend: list[SpendRow] = []
    verdicts: list[VerdictCard] = []
    migrations: list[MigrationTimeline] = []
    replays: list[ReplayRow] = []
    routes: Routes = msgspec.field(default_factory=Routes)
