"""The SQL behind the page. Parameters are ClickHouse's `{name:Type}`; times are nanoseconds.

Every amount is summed in one `{currency}`; amounts in others are counted elsewhere, not mixed.
"""

# Which currencies the ledger holds. Small columns, no join.
CURRENCIES = """
SELECT currency, sum(n) AS lines
FROM (
    SELECT currency, count() AS n FROM cost_lines WHERE currency != '' GROUP BY currency
    UNION ALL
    SELECT currency, count() AS n FROM idle_lines WHERE currency != '' GROUP BY currency
)
GROUP BY currency
ORDER BY lines DESC, currency
"""

# When the first attempt began that ended after a moment. A condition on the start reaches the
# cost lines; one on the end does not.
BEGAN = """
SELECT min(first)
FROM (
    SELECT min(started_ns) AS first FROM attempt_events WHERE ended_ns > {ended_from:Int64}
    HAVING count() > 0
    UNION ALL
    SELECT min(started_ns) AS first FROM imported_attempts WHERE ended_ns > {ended_from:Int64}
    HAVING count() > 0
)
"""

# Every attempt of the window, by backend and by whether it served a client.
BACKENDS = """
WITH
    ifNull(input_tokens, 0) + ifNull(output_tokens, 0) AS all_tokens,
    cost_status = 'priced' AND currency = {currency:String} AS counted,
    streamed AND isNotNull(first_token_ns) AND kind IN ('serve', 'shadow') AS timed,
    (assumeNotNull(first_token_ns) - started_ns) / 1e6 AS ttft_ms
SELECT
    backend,
    kind = 'serve' AS serving,
    countIf(attempt_no = 0) AS requests,
    count() AS attempts,
    countIf(status IN ('error', 'interrupted')) AS errors,
    sum(all_tokens) AS tokens,
    sumIf(assumeNotNull(cost), counted) AS spent,
    sumIf(all_tokens, counted) AS priced_tokens,
    countIf(cost_status = 'unpriced') AS unpriced,
    sumIf(assumeNotNull(cost), counted AND (feature = '' OR customer = '')) AS unattributed,
    quantilesTDigestIf(0.5, 0.99)(ttft_ms, timed) AS ttft,
    countIf(timed) AS ttft_n,
    countIf(kind = 'serve' AND attempt_no = 0 AND ended_ns > {now_from:Int64}) AS now_requests,
    sumIf(ifNull(output_tokens, 0), ended_ns > {now_from:Int64}) AS now_tokens,
    countIf(kind = 'serve' AND ended_ns > {minute_from:Int64}) AS minute_attempts,
    max(ended_ns) AS last_ns,
    argMax(accelerator, ended_ns) AS accelerator,
    argMax(target, ended_ns) AS target,
    argMax(variant, ended_ns) AS variant
FROM attempts
WHERE ended_ns > {window_from:Int64} AND started_ns >= {began_from:Int64}
GROUP BY backend, serving
ORDER BY backend, serving
"""

SPEND = """
WITH
    ifNull(input_tokens, 0) + ifNull(output_tokens, 0) AS all_tokens,
    cost_status = 'priced' AND currency = {currency:String} AS counted
SELECT
    kind = 'serve' AS serving,
    if(serving, feature, '') AS for_feature,
    if(serving, customer, '') AS for_customer,
    countIf(attempt_no = 0) AS requests,
    count() AS attempts,
    sum(all_tokens) AS tokens,
    sumIf(assumeNotNull(cost), counted) AS spent,
    countIf(cost_status = 'unpriced') AS unpriced
FROM attempts
WHERE ended_ns > {window_from:Int64} AND started_ns >= {began_from:Int64}
GROUP BY serving, for_feature, for_customer
ORDER BY serving DESC, spent DESC, attempts DESC, for_feature, for_customer
"""

# One row per backend and bucket; `bucket` counts from `series_from`, whose end is bucket 0.
SERIES = """
WITH
    ifNull(input_tokens, 0) + ifNull(output_tokens, 0) AS all_tokens,
    cost_status = 'priced' AND currency = {currency:String} AS counted
SELECT
    backend,
    intDiv(ended_ns - {series_from:Int64} - 1, {bucket_ns:Int64}) AS bucket,
    countIf(kind = 'serve' AND attempt_no = 0) AS requests,
    sum(ifNull(output_tokens, 0)) AS out_tokens,
    sumIf(assumeNotNull(cost), counted) AS spent,
    sumIf(all_tokens, counted) AS priced_tokens
FROM attempts
WHERE ended_ns > {series_from:Int64} AND ended_ns <= {series_to:Int64}
    AND started_ns >= {began_from:Int64}
GROUP BY backend, bucket
ORDER BY backend, bucket
"""

IDLE = """
SELECT backend, sum(amount) AS spent
FROM idle
WHERE window_end_ns > {window_from:Int64} AND currency = {currency:String}
GROUP BY backend
"""

VERDICTS = """
SELECT *
FROM verdicts
ORDER BY decided_ns DESC, verdict_id
LIMIT 2 BY candidate, model
LIMIT 24
"""

MIGRATIONS = """
SELECT *
FROM migrations
WHERE migration_id IN (
    SELECT migration_id FROM migrations GROUP BY migration_id ORDER BY max(at_ns) DESC LIMIT 4
)
ORDER BY at_ns
LIMIT 400
"""

REPLAYS = """
SELECT *
FROM benches
ORDER BY at_ns DESC
LIMIT 1 BY trace, backend
LIMIT 16
"""
