-- What self-hosted engines did, step by step; the same step again is the same row.

CREATE TABLE IF NOT EXISTS engine_steps
(
    backend LowCardinality(String),
    run LowCardinality(String),
    step Int64,
    start_ns Int64,
    duration_ns Int64,
    prefill_tokens Int64,
    decode_tokens Int64,
    requests Array(String) CODEC(ZSTD(3)),
    prefill Array(Int64) CODEC(ZSTD(1)),
    decode Array(Int64) CODEC(ZSTD(1)),
    kv Array(Int64) CODEC(ZSTD(1)),
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9)) CODEC(Delta(8), ZSTD(1)),
    INDEX ingested_idx ingested_ns TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (backend, start_ns, run, step)
SETTINGS non_replicated_deduplication_window = 10000;

-- What a step costs by what is in it, in 10^-15 s, fitted to the first `samples` steps of a run
-- (`until_ns` is the start of the last one). Each line names the fit that it was shared by.
CREATE TABLE IF NOT EXISTS step_fits
(
    backend LowCardinality(String),
    run LowCardinality(String),
    samples Int64,
    until_ns Int64,
    step_fs Int64,
    prefill_fs Int64,
    decode_fs Int64,
    kv_fs Int64,
    r2 Float64,
    accepted Bool,
    fitted_ns Int64
)
ENGINE = ReplacingMergeTree(fitted_ns)
ORDER BY (backend, run, samples);

-- What a token of each class costs where no steps are known, in 10^-15 s; the newest holds.
CREATE TABLE IF NOT EXISTS class_weights
(
    backend LowCardinality(String),
    in_uncached Int64,
    in_cache_read Int64,
    out Int64,
    source String,
    r2 Float64,
    samples Int64,
    at_ns Int64,
    ingested_ns Int64 DEFAULT toUnixTimestamp64Nano(now64(9))
)
ENGINE = ReplacingMergeTree(ingested_ns)
ORDER BY (backend, at_ns, source)
SETTINGS non_replicated_deduplication_window = 10000;

-- A line's rule is tokens, time, steps, steps_equal or class; `fit` is what its steps cost by.
ALTER TABLE cost_lines ADD COLUMN IF NOT EXISTS fit LowCardinality(String) AFTER rule;

-- Why time that no attempt used was paid for, and who answers for it.
ALTER TABLE idle_lines
    ADD COLUMN IF NOT EXISTS class LowCardinality(String) DEFAULT 'stranded' AFTER window_end_ns,
    ADD COLUMN IF NOT EXISTS owner LowCardinality(String) DEFAULT 'platform' AFTER class;

ALTER TABLE pricing_runs ADD COLUMN IF NOT EXISTS steps_ns Int64;

CREATE OR REPLACE VIEW costs AS
SELECT
    attempt_id,
    lease_id,
    window_start_ns,
    argMax(l.amount, l.known_ns) AS amount,
    argMax(l.currency, l.known_ns) AS currency,
    argMax(l.basis, l.known_ns) AS basis,
    argMax(l.price_source, l.known_ns) AS price_source,
    argMax(l.issuer, l.known_ns) AS issuer,
    argMax(l.rule, l.known_ns) AS rule,
    argMax(l.parts, l.known_ns) AS parts,
    argMax(l.fit, l.known_ns) AS fit
FROM cost_lines AS l
GROUP BY attempt_id, lease_id, window_start_ns
HAVING NOT argMax(l.withdrawn, l.known_ns);

CREATE OR REPLACE VIEW idle AS
SELECT
    lease_id,
    argMax(l.backend, l.known_ns) AS backend,
    window_start_ns,
    argMax(l.window_end_ns, l.known_ns) AS window_end_ns,
    class,
    owner,
    argMax(l.amount, l.known_ns) AS amount,
    amount AS cost,
    argMax(l.currency, l.known_ns) AS currency,
    argMax(l.basis, l.known_ns) AS basis,
    argMax(l.price_source, l.known_ns) AS price_source,
    max(l.known_ns) AS known_ns
FROM idle_lines AS l
GROUP BY lease_id, window_start_ns, class, owner
HAVING NOT argMax(l.withdrawn, l.known_ns);
