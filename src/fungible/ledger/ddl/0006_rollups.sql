-- Sums by hour, day and minute, so that a page over months reads thousands of rows, not millions.
-- They are few and narrow: a rollup over every dimension would have as many rows as the attempts.
-- Own attempts and cost lines feed them as they are inserted. What was put together from elsewhere
-- is restated, so its use is not in here (its cost is): reads add it, see ledger/rollups.py.

-- `priced` says whether a line made its attempt a priced one (1), took its last price away (-1)
-- or neither; `tokens` are that attempt's, so that sum(priced * tokens) are the priced tokens.
ALTER TABLE cost_lines ADD COLUMN IF NOT EXISTS tokens Int64 AFTER owner;
ALTER TABLE cost_lines ADD COLUMN IF NOT EXISTS priced Int8 AFTER tokens;
ALTER TABLE cost_lines ADD INDEX IF NOT EXISTS at_idx at_ns TYPE minmax GRANULARITY 1;

-- Lines that were written before say so now.
CREATE TABLE IF NOT EXISTS cost_lines_before AS cost_lines;
TRUNCATE TABLE cost_lines_before;
INSERT INTO cost_lines_before
SELECT
    l.* EXCEPT (live, held, change, now)
    REPLACE
    (
        l.live * l.amount - l.held AS delta,
        if(l.at_ns = 0, a.started_ns, l.at_ns) AS at_ns,
        if(l.at_ns = 0, a.kind, l.kind) AS kind,
        if(l.at_ns = 0, a.model, l.model) AS model,
        if(l.at_ns = 0, a.feature, l.feature) AS feature,
        if(l.at_ns = 0, a.customer, l.customer) AS customer,
        if(l.at_ns = 0, a.owner, l.owner) AS owner,
        ifNull(a.in_uncached + a.in_cache_read + a.in_cache_write, 0)
            + ifNull(a.out_visible + a.out_reasoning, 0) AS tokens,
        toInt8(l.now > 0) - toInt8(l.now - l.change > 0) AS priced
    )
FROM
(
    SELECT *, sum(change) OVER
    (
        PARTITION BY attempt_id ORDER BY known_ns, lease_id, window_start_ns
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS now
    FROM
    (
        SELECT
            *,
            toInt64(NOT withdrawn) AS live,
            lagInFrame(live * amount, 1, toDecimal128(0, 18)) OVER line AS held,
            live - lagInFrame(live, 1, 0) OVER line AS change
        FROM cost_lines
        WINDOW line AS
        (
            PARTITION BY attempt_id, lease_id, window_start_ns ORDER BY known_ns
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        )
    )
) AS l
LEFT ANY JOIN all_attempts AS a ON a.attempt_id = l.attempt_id;
EXCHANGE TABLES cost_lines AND cost_lines_before;
DROP TABLE cost_lines_before;

-- The same table to ask, that looks only at the lines of the attempts asked about: a condition
-- on started_ns reaches the lines through at_ns, others by a filter made while it runs.
CREATE OR REPLACE VIEW attempts AS
SELECT
    e.* EXCEPT (withdrawn),
    fromUnixTimestamp64Nano(e.started_ns, 'UTC') AS started_at,
    e.in_uncached + e.in_cache_read + e.in_cache_write AS input_tokens,
    e.out_visible + e.out_reasoning AS output_tokens,
    if(c.priced_id = '', NULL, c.amount) AS cost,
    c.currency AS currency,
    c.basis AS basis,
    c.rule AS rule,
    if(c.priced_id = '', 'unpriced', 'priced') AS cost_status
FROM
(
    SELECT
        attempt_id AS priced_id,
        at_ns,
        sum(l.delta) AS amount,
        argMax(l.currency, l.known_ns) AS currency,
        argMax(l.basis, l.known_ns) AS basis,
        argMax(l.rule, l.known_ns) AS rule
    FROM cost_lines AS l
    GROUP BY priced_id, at_ns
    HAVING sum(l.priced) > 0
) AS c
RIGHT JOIN all_attempts AS e ON c.priced_id = e.attempt_id AND c.at_ns = e.started_ns
WHERE NOT e.withdrawn;

-- The rollups. Each is filled from what is there and then kept by two views.

-- What each team's features used of which backend, by the hour.
CREATE TABLE IF NOT EXISTS usage_hours
(
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String),
    owner LowCardinality(String),
    feature LowCardinality(String),
    backend LowCardinality(String),
    model LowCardinality(String),
    currency LowCardinality(String),
    basis LowCardinality(String),
    attempts SimpleAggregateFunction(sum, Int64),
    requests SimpleAggregateFunction(sum, Int64),
    errors SimpleAggregateFunction(sum, Int64),
    input_tokens SimpleAggregateFunction(sum, Int64),
    output_tokens SimpleAggregateFunction(sum, Int64),
    amount SimpleAggregateFunction(sum, Decimal(38, 18)),
    priced SimpleAggregateFunction(sum, Int64),
    priced_tokens SimpleAggregateFunction(sum, Int64),
    lines SimpleAggregateFunction(sum, Int64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, kind, owner, feature, backend, model, currency, basis)
SETTINGS non_replicated_deduplication_window = 10000;

DROP VIEW IF EXISTS usage_hours_attempts;
DROP VIEW IF EXISTS usage_hours_money;
TRUNCATE TABLE usage_hours;

INSERT INTO usage_hours
(
    hour, kind, owner, feature, backend, model, attempts, requests, errors, input_tokens,
    output_tokens
)
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS hour,
    e.kind AS kind,
    e.owner AS owner,
    e.feature AS feature,
    e.backend AS backend,
    e.model AS model,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY hour, kind, owner, feature, backend, model;

INSERT INTO usage_hours
(
    hour, kind, owner, feature, backend, model, currency, basis, amount, priced,
    priced_tokens, lines
)
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS hour,
    l.kind AS kind,
    l.owner AS owner,
    l.feature AS feature,
    l.backend AS backend,
    l.model AS model,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY hour, kind, owner, feature, backend, model, currency, basis;

CREATE MATERIALIZED VIEW usage_hours_attempts TO usage_hours AS
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS hour,
    e.kind AS kind,
    e.owner AS owner,
    e.feature AS feature,
    e.backend AS backend,
    e.model AS model,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY hour, kind, owner, feature, backend, model;

CREATE MATERIALIZED VIEW usage_hours_money TO usage_hours AS
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS hour,
    l.kind AS kind,
    l.owner AS owner,
    l.feature AS feature,
    l.backend AS backend,
    l.model AS model,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY hour, kind, owner, feature, backend, model, currency, basis;

-- What each customer used of which feature, by the hour and by the day.
CREATE TABLE IF NOT EXISTS customer_hours
(
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String),
    customer String,
    feature LowCardinality(String),
    currency LowCardinality(String),
    basis LowCardinality(String),
    attempts SimpleAggregateFunction(sum, Int64),
    requests SimpleAggregateFunction(sum, Int64),
    errors SimpleAggregateFunction(sum, Int64),
    input_tokens SimpleAggregateFunction(sum, Int64),
    output_tokens SimpleAggregateFunction(sum, Int64),
    amount SimpleAggregateFunction(sum, Decimal(38, 18)),
    priced SimpleAggregateFunction(sum, Int64),
    priced_tokens SimpleAggregateFunction(sum, Int64),
    lines SimpleAggregateFunction(sum, Int64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, kind, customer, feature, currency, basis)
SETTINGS non_replicated_deduplication_window = 10000;

DROP VIEW IF EXISTS customer_hours_attempts;
DROP VIEW IF EXISTS customer_hours_money;
TRUNCATE TABLE customer_hours;

INSERT INTO customer_hours
(
    hour, kind, customer, feature, attempts, requests, errors, input_tokens, output_tokens
)
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS hour,
    e.kind AS kind,
    e.customer AS customer,
    e.feature AS feature,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY hour, kind, customer, feature;

INSERT INTO customer_hours
(
    hour, kind, customer, feature, currency, basis, amount, priced, priced_tokens, lines
)
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS hour,
    l.kind AS kind,
    l.customer AS customer,
    l.feature AS feature,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY hour, kind, customer, feature, currency, basis;

CREATE MATERIALIZED VIEW customer_hours_attempts TO customer_hours AS
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS hour,
    e.kind AS kind,
    e.customer AS customer,
    e.feature AS feature,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY hour, kind, customer, feature;

CREATE MATERIALIZED VIEW customer_hours_money TO customer_hours AS
SELECT
    toStartOfHour(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS hour,
    l.kind AS kind,
    l.customer AS customer,
    l.feature AS feature,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY hour, kind, customer, feature, currency, basis;

CREATE TABLE IF NOT EXISTS customer_days
(
    day Date CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String),
    customer String,
    feature LowCardinality(String),
    currency LowCardinality(String),
    basis LowCardinality(String),
    attempts SimpleAggregateFunction(sum, Int64),
    requests SimpleAggregateFunction(sum, Int64),
    errors SimpleAggregateFunction(sum, Int64),
    input_tokens SimpleAggregateFunction(sum, Int64),
    output_tokens SimpleAggregateFunction(sum, Int64),
    amount SimpleAggregateFunction(sum, Decimal(38, 18)),
    priced SimpleAggregateFunction(sum, Int64),
    priced_tokens SimpleAggregateFunction(sum, Int64),
    lines SimpleAggregateFunction(sum, Int64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, kind, customer, feature, currency, basis)
SETTINGS non_replicated_deduplication_window = 10000;

DROP VIEW IF EXISTS customer_days_attempts;
DROP VIEW IF EXISTS customer_days_money;
TRUNCATE TABLE customer_days;

INSERT INTO customer_days
(
    day, kind, customer, feature, attempts, requests, errors, input_tokens, output_tokens
)
SELECT
    toDate(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS day,
    e.kind AS kind,
    e.customer AS customer,
    e.feature AS feature,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY day, kind, customer, feature;

INSERT INTO customer_days
(
    day, kind, customer, feature, currency, basis, amount, priced, priced_tokens, lines
)
SELECT
    toDate(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS day,
    l.kind AS kind,
    l.customer AS customer,
    l.feature AS feature,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY day, kind, customer, feature, currency, basis;

CREATE MATERIALIZED VIEW customer_days_attempts TO customer_days AS
SELECT
    toDate(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS day,
    e.kind AS kind,
    e.customer AS customer,
    e.feature AS feature,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens
FROM attempt_events AS e
GROUP BY day, kind, customer, feature;

CREATE MATERIALIZED VIEW customer_days_money TO customer_days AS
SELECT
    toDate(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS day,
    l.kind AS kind,
    l.customer AS customer,
    l.feature AS feature,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines
FROM cost_lines AS l
GROUP BY day, kind, customer, feature, currency, basis;

-- How each backend did, by the minute: with sketches of its latency.
CREATE TABLE IF NOT EXISTS backend_minutes
(
    minute DateTime('UTC') CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String),
    backend LowCardinality(String),
    model LowCardinality(String),
    currency LowCardinality(String),
    basis LowCardinality(String),
    attempts SimpleAggregateFunction(sum, Int64),
    requests SimpleAggregateFunction(sum, Int64),
    errors SimpleAggregateFunction(sum, Int64),
    input_tokens SimpleAggregateFunction(sum, Int64),
    output_tokens SimpleAggregateFunction(sum, Int64),
    amount SimpleAggregateFunction(sum, Decimal(38, 18)),
    priced SimpleAggregateFunction(sum, Int64),
    priced_tokens SimpleAggregateFunction(sum, Int64),
    lines SimpleAggregateFunction(sum, Int64),
    timed SimpleAggregateFunction(sum, Int64),
    unattributed SimpleAggregateFunction(sum, Decimal(38, 18)),
    seen SimpleAggregateFunction(max, Tuple(Int64, String, String, String)),
    ttft AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), Float64, UInt8),
    duration AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), Float64, UInt8)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, kind, backend, model, currency, basis)
SETTINGS non_replicated_deduplication_window = 10000;

DROP VIEW IF EXISTS backend_minutes_attempts;
DROP VIEW IF EXISTS backend_minutes_money;
TRUNCATE TABLE backend_minutes;

INSERT INTO backend_minutes
(
    minute, kind, backend, model, attempts, requests, errors, input_tokens, output_tokens,
    timed, seen, ttft, duration
)
SELECT
    toStartOfMinute(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS minute,
    e.kind AS kind,
    e.backend AS backend,
    e.model AS model,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens,
    countIf(e.streamed AND isNotNull(e.first_token_ns)) AS timed,
    max((e.ended_ns, toString(e.accelerator), toString(e.target), toString(e.variant))) AS seen,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(
        (assumeNotNull(e.first_token_ns) - e.started_ns) / 1e6,
        toUInt8(e.streamed AND isNotNull(e.first_token_ns))
    ) AS ttft,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(
        (e.ended_ns - e.started_ns) / 1e6, toUInt8(e.status = 'ok')
    ) AS duration
FROM attempt_events AS e
GROUP BY minute, kind, backend, model;

INSERT INTO backend_minutes
(
    minute, kind, backend, model, currency, basis, amount, priced, priced_tokens, lines,
    unattributed
)
SELECT
    toStartOfMinute(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS minute,
    l.kind AS kind,
    l.backend AS backend,
    l.model AS model,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines,
    sumIf(l.delta, l.kind = 'serve' AND (l.feature = '' OR l.customer = '')) AS unattributed
FROM cost_lines AS l
GROUP BY minute, kind, backend, model, currency, basis;

CREATE MATERIALIZED VIEW backend_minutes_attempts TO backend_minutes AS
SELECT
    toStartOfMinute(fromUnixTimestamp64Nano(e.started_ns, 'UTC')) AS minute,
    e.kind AS kind,
    e.backend AS backend,
    e.model AS model,
    count() AS attempts,
    countIf(e.attempt_no = 0) AS requests,
    countIf(e.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0)) AS input_tokens,
    sum(ifNull(e.out_visible + e.out_reasoning, 0)) AS output_tokens,
    countIf(e.streamed AND isNotNull(e.first_token_ns)) AS timed,
    max((e.ended_ns, toString(e.accelerator), toString(e.target), toString(e.variant))) AS seen,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(
        (assumeNotNull(e.first_token_ns) - e.started_ns) / 1e6,
        toUInt8(e.streamed AND isNotNull(e.first_token_ns))
    ) AS ttft,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(
        (e.ended_ns - e.started_ns) / 1e6, toUInt8(e.status = 'ok')
    ) AS duration
FROM attempt_events AS e
GROUP BY minute, kind, backend, model;

CREATE MATERIALIZED VIEW backend_minutes_money TO backend_minutes AS
SELECT
    toStartOfMinute(fromUnixTimestamp64Nano(l.at_ns, 'UTC')) AS minute,
    l.kind AS kind,
    l.backend AS backend,
    l.model AS model,
    l.currency AS currency,
    l.basis AS basis,
    sum(l.delta) AS amount,
    sum(toInt64(l.priced)) AS priced,
    sum(l.priced * l.tokens) AS priced_tokens,
    count() AS lines,
    sumIf(l.delta, l.kind = 'serve' AND (l.feature = '' OR l.customer = '')) AS unattributed
FROM cost_lines AS l
GROUP BY minute, kind, backend, model, currency, basis;
