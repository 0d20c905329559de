-- What happened: one table per record of contract/events.py, a column per field.
-- `ingested_ns` is when the row became known here; pricing starts from it.

CREATE TABLE IF NOT EXISTS attempt_events
(
    attempt_id String,
    request_id String,
    attempt_no Int64,
    kind LowCardinality(String),
    endpoint LowCardinality(String),
    model LowCardinality(String),
    backend LowCardinality(String),
    backend_kind LowCardinality(String),
    target LowCardinality(String),
    accelerator LowCardinality(String),
    region LowCardinality(String),
    artifact LowCardinality(String),
    variant LowCardinality(String),
    binding LowCardinality(String),
    config_hash LowCardinality(String),
    route_version Int64,
    owner LowCardinality(String),
    key LowCardinality(String),
    customer String,
    feature LowCardinality(String),
    session String,
    tags Map(String, String),
    run_id String,
    item_id String,
    streamed Bool,
    started_ns Int64 CODEC(Delta(8), ZSTD(1)),
    first_token_ns Nullable(Int64) CODEC(ZSTD(1)),
    ended_ns Int64 CODEC(Delta(8), ZSTD(1)),
    status LowCardinality(String),
    http_status Int64,
    error_code LowCardinality(String),
    finish_reason LowCardinality(String),
    in_uncached Nullable(Int64),
    in_cache_read Nullable(Int64),
    in_cache_write Nullable(Int64),
    out_visible Nullable(Int64),
    out_reasoning Nullable(Int64),
    usage_source LowCardinality(String),
    output_hash String,
    output_chars Nullable(Int64),
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9)) CODEC(Delta(8), ZSTD(1)),
    INDEX ended_idx ended_ns TYPE minmax GRANULARITY 1,
    INDEX ingested_idx ingested_ns TYPE minmax GRANULARITY 1,
    INDEX attempt_idx attempt_id TYPE bloom_filter GRANULARITY 1,
    INDEX request_idx request_id TYPE bloom_filter GRANULARITY 1,
    INDEX run_idx run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(started_ns, 'UTC'))
ORDER BY (toDate(fromUnixTimestamp64Nano(started_ns, 'UTC')), customer, feature, model, backend)
SETTINGS non_replicated_deduplication_window = 10000;

-- A lease is repeated while it is held; the row with the newest `seen_ns` survives merges.
CREATE TABLE IF NOT EXISTS leases
(
    lease_id String,
    backend LowCardinality(String),
    accelerator LowCardinality(String),
    started_ns Int64,
    seen_ns Int64,
    ended Bool,
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree(seen_ns)
ORDER BY lease_id
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS eval_items
(
    run_id String,
    suite LowCardinality(String),
    suite_hash LowCardinality(String),
    item_id String,
    cluster LowCardinality(String),
    backend LowCardinality(String),
    attempt_id String,
    score Nullable(Float64),
    output_hash String,
    output_tokens Nullable(Int64),
    finish_reason LowCardinality(String),
    at_ns Int64
)
ENGINE = MergeTree
ORDER BY (run_id, backend, item_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS verdicts
(
    verdict_id String,
    model LowCardinality(String),
    suite LowCardinality(String),
    suite_hash LowCardinality(String),
    plan_hash String,
    candidate LowCardinality(String),
    reference LowCardinality(String),
    binding LowCardinality(String),
    reference_binding LowCardinality(String),
    outcome LowCardinality(String),
    items Int64,
    reference_score Float64,
    candidate_score Float64,
    margin Float64,
    loss_upper Float64,
    reasons Array(String),
    metrics Map(String, Float64),
    decided_ns Int64,
    expires_ns Int64
)
ENGINE = MergeTree
ORDER BY (model, candidate, decided_ns)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS migrations
(
    migration_id String,
    model LowCardinality(String),
    candidate LowCardinality(String),
    reference LowCardinality(String),
    from_state LowCardinality(String),
    to_state LowCardinality(String),
    weight Float64,
    route_version Int64,
    reason String,
    evidence Map(String, Float64),
    at_ns Int64
)
ENGINE = MergeTree
ORDER BY (migration_id, at_ns)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS benches
(
    run_id String,
    trace LowCardinality(String),
    backend LowCardinality(String),
    binding LowCardinality(String),
    requests Int64,
    failed Int64,
    valid Bool,
    ttft_p50_ms Float64,
    ttft_p99_ms Float64,
    tokens_per_s Float64,
    wall_s Float64,
    at_ns Int64
)
ENGINE = MergeTree
ORDER BY (backend, at_ns)
SETTINGS non_replicated_deduplication_window = 10000;
