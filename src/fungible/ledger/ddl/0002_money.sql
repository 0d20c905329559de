-- What it cost. Lines are only ever appended: of several lines for the same thing the one
-- with the newest `known_ns` holds, and `withdrawn` says that it no longer has a price.

CREATE TABLE IF NOT EXISTS cost_lines
(
    attempt_id String,
    backend LowCardinality(String),
    lease_id String,
    window_start_ns Int64,
    amount Decimal(38, 18),
    currency LowCardinality(String),
    basis LowCardinality(String),
    price_source LowCardinality(String),
    withdrawn Bool,
    known_ns Int64,
    INDEX attempt_idx attempt_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (lease_id, window_start_ns, attempt_id, known_ns);

CREATE TABLE IF NOT EXISTS idle_lines
(
    lease_id String,
    backend LowCardinality(String),
    window_start_ns Int64,
    window_end_ns Int64,
    amount Decimal(38, 18),
    currency LowCardinality(String),
    basis LowCardinality(String),
    price_source LowCardinality(String),
    withdrawn Bool,
    known_ns Int64
)
ENGINE = MergeTree
ORDER BY (lease_id, window_start_ns, known_ns);

-- How far pricing has come under which price book: this many attempts, and everything that was
-- ingested until these moments.
CREATE TABLE IF NOT EXISTS pricing_runs
(
    known_ns Int64,
    book String,
    attempts Int64,
    attempts_ns Int64,
    leases_ns Int64
)
ENGINE = ReplacingMergeTree(known_ns)
ORDER BY tuple();

CREATE OR REPLACE VIEW costs AS
SELECT
    attempt_id,
    lease_id,
    window_start_ns,
    argMax(l.amount, l.known_ns) AS amount,
    argMax(l.currency, l.known_ns) AS currency,
    argMax(l.basis, l.known_ns) AS basis,
    argMax(l.price_source, l.known_ns) AS price_source
FROM cost_lines AS l
GROUP BY attempt_id, lease_id, window_start_ns
HAVING NOT argMax(l.withdrawn, l.known_ns);

CREATE OR REPLACE VIEW idle AS
SELECT
    lease_id,
    argMax(l.backend, l.known_ns) AS backend,
    window_start_ns,
    argMax(l.window_end_ns, l.known_ns) AS window_end_ns,
    argMax(l.amount, l.known_ns) AS amount,
    amount AS cost,
    argMax(l.currency, l.known_ns) AS currency,
    argMax(l.basis, l.known_ns) AS basis,
    argMax(l.price_source, l.known_ns) AS price_source,
    max(l.known_ns) AS known_ns
FROM idle_lines AS l
GROUP BY lease_id, window_start_ns
HAVING NOT argMax(l.withdrawn, l.known_ns);

-- The one table to ask: what was asked, where it went, how long it took, what it cost.
CREATE OR REPLACE VIEW attempts AS
SELECT
    e.*,
    fromUnixTimestamp64Nano(e.started_ns, 'UTC') AS started_at,
    e.in_uncached + e.in_cache_read + e.in_cache_write AS input_tokens,
    e.out_visible + e.out_reasoning AS output_tokens,
    if(c.attempt_id = '', NULL, c.amount) AS cost,
    c.currency AS currency,
    c.basis AS basis,
    if(c.attempt_id = '', 'unpriced', 'priced') AS cost_status
FROM attempt_events AS e
LEFT JOIN
(
    SELECT
        attempt_id,
        sum(l.amount) AS amount,
        any(l.currency) AS currency,
        any(l.basis) AS basis
    FROM costs AS l
    GROUP BY attempt_id
) AS c ON c.attempt_id = e.attempt_id;
