"""The records behind `fungible.toml`, one a table. Frozen, with their defaults."""

from typing import Any, Literal

import msgspec

# ClickHouse's own port is 8123: that is left to a real server.
CLICKHOUSE_PORT = 8124
ClientGone = Literal["cancel", "drain"]


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data plane's address and limits (seconds, bytes).

    Attributes:
        idle_timeout_s: Longest silence between two events of a stream.
        workers: Processes that share the port.
        on_client_gone: Whether a call whose client left is cancelled, or read to its end
            for its token counts, for at most `drain_timeout_s`.
        header_timeout_s: Time for a request's head, from the connection or its first byte on.
        body_timeout_s: Time for the rest of it.
        write_timeout_s: How long a client may leave more than `write_buffer_bytes` unread.
        metrics_port: Where `GET /metrics` is answered, without a key; `None` for nowhere.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    first_token_timeout_s: float = 60.0
    total_timeout_s: float = 300.0
    idle_timeout_s: float = 60.0
    max_body_bytes: int = 10_000_000
    max_header_bytes: int = 65_536
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 30.0
    write_buffer_bytes: int = 262_144
    fields: Literal["lenient", "strict"] = "lenient"
    max_shadows: int = 64
    workers: int = 1
    on_client_gone: ClientGone = "cancel"
    drain_timeout_s: float = 60.0


class ReaderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A read-only user of the ClickHouse endpoint, with what one statement may use.

    Attributes:
        hash: SHA-256 of the token, in hexadecimal.
    """

    hash: str
    max_execution_s: float = 30.0
    max_memory_bytes: int = 1_000_000_000
    max_result_rows: int = 1_000_000


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded ledger as a ClickHouse server, on loopback only.

    Attributes:
        port: 0 picks a free one. Not given, it is 8124, or picked where control's port is.
        max_queries: Statements at once; more wait in line.
        max_insert_bytes: Of one request, decoded.
    """

    enabled: bool = True
    port: int | None = None
    max_queries: int = 8
    max_insert_bytes: int = 1 << 30
    reader: dict[str, ReaderSettings] = {}


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control process's address, and its ClickHouse endpoint."""

    host: str = "127.0.0.1"
    port: int = 8081
    clickhouse: ClickHouseSettings = ClickHouseSettings()

    def clickhouse_port(self, port: int) -> int:
        """Where the endpoint listens when control itself was told `port`."""
        chosen = self.clickhouse.port
        return (CLICKHOUSE_PORT if port else 0) if chosen is None else chosen


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes from other systems.

    Attributes:
        attributes: Span attributes that say for whom a call was, by `customer`, `feature`,
            `owner`, `key` and `session`; they come before the usual ones.
        token_hash: SHA-256, hexadecimal, of a token that may send traces to control.
        gateways: Where our own gateways are called, such as `llm.internal:8080`: what is
            imported about calls to these servers is left out, for their attempts are recorded.
    """

    attributes: dict[str, list[str]] = {}
    token_hash: str = ""
    gateways: list[str] = []


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows go. An empty `dsn` means the embedded engine under the home directory.

    `prices` is a price sheet (CSV, YAML or XLSX), relative to the configuration file.

    Attributes:
        currency: What amounts are in, such as `USD`; empty: the sheet's own. Prices in others
            are converted by imported exchange rates.
        on_disk_full: When a row cannot be written: `refuse` the request, or `serve` it and
            count the row that is lost.
        max_spool_bytes: How much may wait to be shipped. More is a full disk.
    """

    dsn: str = ""
    prices: str = ""
    currency: str = ""
    on_disk_full: Literal["refuse", "serve"] = "refuse"
    max_spool_bytes: int = 4 << 30


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A local engine that `fungible up` starts for a backend.

    Attributes:
        artifact: Path of an artifact directory, or the digest (`sha256:…`) of one in the store.
        slots: Requests decoded at once.
        context: Longest prompt plus answer, in tokens.
        prefix_cache: Start prompts from what slots hold of them already.
    """

    artifact: str
    target: str = "onnxruntime:cpu"
    variant: str = "f32"
    slots: int = 8
    context: int = 1024
    threads: int = 2
    prefix_cache: bool = True


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place that can serve a model.

    Attributes:
        kind: Entry point of group `fungible.backends`, such as `openai_http` or `null`.
        url: Base URL up to and including `/v1`; filled in for backends with an `engine`.
        model: The name the upstream knows the model by; empty keeps the client's.
        api_key_env: Environment variable that holds the upstream's key.
        accelerator: What it runs on, such as `cpu-x86`, `nvidia-h100`, `aws-trainium2`.
        price: Key of the price sheet; empty means the backend's own name.
        reserved_by: The owner that reserved `reserved_share` of it, and answers for it unused.
        headroom: Share of it that is kept free on purpose.
        max_concurrency: Attempts at once; more wait in line, at most `max_queue` of them.
        queue_timeout_s: Longest wait in line.
        options: Settings of the adapter itself.
    """

    kind: str = "openai_http"
    url: str = ""
    model: str = ""
    api_key_env: str = ""
    accelerator: str = ""
    region: str = ""
    price: str = ""
    reserved_by: str = ""
    reserved_share: float = 1.0
    headroom: float = 0.0
    max_concurrency: int = 64
    max_queue: int = 1024
    queue_timeout_s: float = 30.0
    engine: EngineSettings | None = None
    options: dict[str, Any] = {}


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may serve a model.

    `weights` are the starting shares; a backend that is only listed in `backends` has 0.
    `fallback` names backends tried in order when the chosen one fails before its first token.
    Retries are at most `retry_budget` per request and `retry_min_per_s` per second, in all.
    `policy` says which of the backends with weight answers; `affinity` what keeps a
    conversation together, as long as that gives nobody more than `affinity_load` times its share.
    Without a first token after `hedge_after_ms`, or after that percentile of recent ones, a
    second backend is asked too. Timeouts are the gateway's where they are not given.
    """

    reference: str
    backends: list[str] = []
    weights: dict[str, float] = {}
    fallback: list[str] = []
    retries: int = 1
    retry_budget: float = 0.2
    retry_min_per_s: float = 1.0
    on_client_gone: ClientGone | None = None
    policy: Literal["weighted", "least_outstanding", "latency", "cost"] = "weighted"
    affinity: Literal["session", "prefix", "none"] = "session"
    affinity_load: float = 1.5
    hedge_after_ms: float | None = None
    hedge_percentile: float | None = None
    first_token_timeout_s: float | None = None
    total_timeout_s: float | None = None
    idle_timeout_s: float | None = None


class MigrationPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a migration moves on, and when it turns back. Fixed before it starts.

    Attributes:
        shadow_share: Share of requests copied to the candidate while it is in shadow.
        shadow_tools: Whether copies keep the definitions of tools (nobody runs their calls).
        shadow_margin: Largest loss of online health that still counts as held, in score points.
        shadow_min_pairs: Pairs to see before any promotion out of shadow.
        canary_steps: Shares of traffic that the candidate gets, one step after the other.
        canary_margin: The same as `shadow_margin` for the attempts of real traffic.
        canary_min_attempts: Attempts of the candidate to see at each step.
        promote_at: E-value at which the candidate has held (20: wrong at most 1 time in 20).
        rollback_at: E-value at which it has not.
        trip_after: Failures of the candidate in a row that end a migration at once.
        max_pairs: Pairs per stage without a decision before it turns back.
        max_stage_s: Seconds per stage without a decision before it turns back.
    """

    shadow_share: float = 1.0
    shadow_tools: bool = True
    shadow_margin: float = 0.05
    shadow_min_pairs: int = 60
    canary_steps: tuple[float, ...] = (0.25, 0.5)
    canary_margin: float = 0.10
    canary_min_attempts: int = 15
    promote_at: float = 20.0
    rollback_at: float = 20.0
    trip_after: int = 5
    max_pairs: int = 2000
    max_stage_s: float = 86_400.0
