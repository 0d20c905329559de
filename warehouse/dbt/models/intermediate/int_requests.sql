-- What a client's request cost on each backend that it reached. Attempts without a price are
-- rows of their own, so that a sum of what is known never looks like the whole.
SELECT
    toDate(fromUnixTimestamp64Nano(min(a.request_started_ns), 'UTC')) AS requested_on,
    toStartOfHour(fromUnixTimestamp64Nano(min(a.request_started_ns), 'UTC')) AS requested_hour,
    a.request_id AS request_id,
    a.model AS model,
    a.backend AS backend,
    a.kind AS kind,
    a.basis AS basis,
    a.currency AS currency,
    count() AS attempts,
    countIf(a.status IN ('error', 'interrupted')) AS errors,
    sum(ifNull(a.input_tokens, 0) + ifNull(a.output_tokens, 0)) AS tokens,
    sum(a.cost) AS cost,
    max(a.known_ns) AS known_ns
FROM {{ ref('int_attempts') }} AS a
GROUP BY
    toDate(fromUnixTimestamp64Nano(a.request_started_ns, 'UTC')),
    a.request_id, a.model, a.backend, a.kind, a.basis, a.currency
