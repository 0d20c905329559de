-- What arrived from elsewhere: a table per record of contract/streams.py, a column per field.
-- The same fact may arrive twice and in any order: read these tables with FINAL. Where two
-- facts share a key and differ, the order of their digests decides, the same way everywhere.

CREATE TABLE IF NOT EXISTS responses
(
    digest String,
    source String,
    issuer LowCardinality(String),
    response_id String,
    trace_id String,
    span_id String,
    request_id String,
    attempt_no Int64,
    operation LowCardinality(String),
    model LowCardinality(String),
    response_model LowCardinality(String),
    backend LowCardinality(String),
    server LowCardinality(String),
    resource LowCardinality(String),
    region LowCardinality(String),
    tier LowCardinality(String),
    owner LowCardinality(String),
    key LowCardinality(String),
    customer String,
    feature LowCardinality(String),
    session String,
    tags Map(String, String),
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
    rank Int64,
    stated_cost Nullable(Decimal(38, 18)),
    stated_currency LowCardinality(String),
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9)) CODEC(Delta(8), ZSTD(1)),
    INDEX ingested_idx ingested_ns TYPE minmax GRANULARITY 1,
    INDEX trace_idx trace_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (response_id, trace_id, span_id, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS spans
(
    digest String,
    source String,
    issuer LowCardinality(String),
    response_id String,
    trace_id String,
    span_id String,
    parent_span_id String,
    service LowCardinality(String),
    request_id String,
    attempt_no Int64,
    operation LowCardinality(String),
    model LowCardinality(String),
    response_model LowCardinality(String),
    backend LowCardinality(String),
    server LowCardinality(String),
    resource LowCardinality(String),
    region LowCardinality(String),
    tier LowCardinality(String),
    owner LowCardinality(String),
    key LowCardinality(String),
    customer String,
    feature LowCardinality(String),
    session String,
    tags Map(String, String),
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
    rank Int64,
    stated_cost Nullable(Decimal(38, 18)),
    stated_currency LowCardinality(String),
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9)) CODEC(Delta(8), ZSTD(1)),
    INDEX ingested_idx ingested_ns TYPE minmax GRANULARITY 1,
    INDEX response_idx response_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (trace_id, span_id, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS infra
(
    provider LowCardinality(String),
    resource String,
    observed_ns Int64,
    digest String,
    source String,
    kind LowCardinality(String),
    parent String,
    backend LowCardinality(String),
    accelerator LowCardinality(String),
    accelerators Int64,
    instance_type LowCardinality(String),
    region LowCardinality(String),
    zone LowCardinality(String),
    capacity LowCardinality(String),
    addresses Array(String),
    labels Map(String, String),
    started_ns Int64,
    ended_ns Int64,
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree
ORDER BY (provider, resource, observed_ns, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS price_rows
(
    sheet LowCardinality(String),
    known_ns Int64,
    row Int64,
    digest LowCardinality(String),
    key LowCardinality(String),
    unit LowCardinality(String),
    leaf LowCardinality(String),
    price Decimal(38, 18),
    currency LowCardinality(String),
    basis LowCardinality(String),
    issuer LowCardinality(String),
    sku LowCardinality(String),
    tier LowCardinality(String),
    region LowCardinality(String),
    context_from Int64,
    context_to Int64,
    contract LowCardinality(String),
    valid_from_ns Int64,
    valid_to_ns Int64,
    note String,
    place String,
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree
ORDER BY (sheet, known_ns, row)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS fx_rates
(
    base LowCardinality(String),
    quote LowCardinality(String),
    day Date,
    rate Decimal(38, 18),
    known_ns Int64,
    source String,
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree
ORDER BY (base, quote, day, known_ns)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS invoice_lines
(
    issuer LowCardinality(String),
    invoice String,
    line String,
    digest String,
    source String,
    known_ns Int64,
    category LowCardinality(String),
    correction Bool,
    sku LowCardinality(String),
    meter LowCardinality(String),
    description String,
    backend LowCardinality(String),
    resource String,
    start_ns Int64,
    end_ns Int64,
    quantity Nullable(Decimal(38, 18)),
    unit LowCardinality(String),
    billed Decimal(38, 18),
    effective Nullable(Decimal(38, 18)),
    contracted Nullable(Decimal(38, 18)),
    list_cost Nullable(Decimal(38, 18)),
    currency LowCardinality(String),
    commitment LowCardinality(String),
    tags Map(String, String),
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree
ORDER BY (issuer, invoice, line, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS rejects
(
    stream LowCardinality(String),
    digest String,
    source String,
    place String,
    reason String,
    sample String,
    at_ns Int64
)
ENGINE = ReplacingMergeTree
ORDER BY (stream, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS imports
(
    stream LowCardinality(String),
    digest String,
    source String,
    rows Int64,
    rejected Int64,
    at_ns Int64
)
ENGINE = ReplacingMergeTree
ORDER BY (stream, digest)
SETTINGS non_replicated_deduplication_window = 10000;

-- Attempts put together from those facts. A later fact about the same attempt appends a newer
-- row; `withdrawn` says that it turned out to be part of another.
ALTER TABLE attempt_events
    ADD COLUMN IF NOT EXISTS issuer LowCardinality(String) AFTER output_chars,
    ADD COLUMN IF NOT EXISTS response_id String AFTER issuer,
    ADD COLUMN IF NOT EXISTS trace_id String AFTER response_id,
    ADD COLUMN IF NOT EXISTS span_id String AFTER trace_id,
    ADD COLUMN IF NOT EXISTS tier LowCardinality(String) AFTER span_id,
    ADD COLUMN IF NOT EXISTS withdrawn Bool AFTER tier;

CREATE TABLE IF NOT EXISTS imported_attempts AS attempt_events
ENGINE = MergeTree
ORDER BY (attempt_id, ingested_ns)
SETTINGS non_replicated_deduplication_window = 10000;

-- Every attempt at its newest row: our own, which never change, and those put together.
CREATE OR REPLACE VIEW all_attempts AS
SELECT * FROM attempt_events
UNION ALL
SELECT * FROM
(
    SELECT * FROM imported_attempts
    ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id
);

-- A line says more: by which rule, for whom, of what parts (SKU -> amount), and by how much it
-- differs from the line before it (`delta`), so that sums of deltas are right at any moment.
ALTER TABLE cost_lines
    ADD COLUMN IF NOT EXISTS issuer LowCardinality(String) AFTER backend,
    ADD COLUMN IF NOT EXISTS rule LowCardinality(String)
        DEFAULT if(lease_id = '', 'tokens', 'time') AFTER basis,
    ADD COLUMN IF NOT EXISTS parts Map(LowCardinality(String), Decimal(38, 18)) AFTER rule,
    ADD COLUMN IF NOT EXISTS delta Decimal(38, 18) AFTER amount,
    ADD COLUMN IF NOT EXISTS at_ns Int64 AFTER delta,
    ADD COLUMN IF NOT EXISTS kind LowCardinality(String) AFTER at_ns,
    ADD COLUMN IF NOT EXISTS model LowCardinality(String) AFTER kind,
    ADD COLUMN IF NOT EXISTS feature LowCardinality(String) AFTER model,
    ADD COLUMN IF NOT EXISTS customer String AFTER feature,
    ADD COLUMN IF NOT EXISTS owner LowCardinality(String) AFTER customer;
ALTER TABLE idle_lines ADD COLUMN IF NOT EXISTS delta Decimal(38, 18) AFTER amount;
