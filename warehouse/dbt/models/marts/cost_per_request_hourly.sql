{{ config(
    materialized='incremental',
    incremental_strategy='insert_overwrite',
    partition_by='day',
    order_by=['hour', 'model', 'backend', 'kind', 'basis', 'currency'],
    post_hook="{{ forget_days('day') }}",
) }}
-- depends_on: {{ ref('int_days') }}

SELECT
    r.requested_on AS day,
    toDateTime(r.requested_hour, 'UTC') AS hour,
    CAST(r.model AS String) AS model,
    CAST(r.backend AS String) AS backend,
    CAST(r.kind AS String) AS kind,
    r.basis AS basis,
    r.currency AS currency,
    count() AS requests,
    sum(r.attempts) AS attempts,
    sum(r.errors) AS errors,
    sum(r.tokens) AS tokens,
    sum(r.cost) AS cost,
    {{ exact_ratio('sum(r.cost)', 'countIf(r.cost IS NOT NULL)') }} AS cost_per_request,
    quantileExact(0.5)(r.cost) AS cost_p50,
    quantileExact(0.95)(r.cost) AS cost_p95,
    quantileExact(0.99)(r.cost) AS cost_p99,
    max(r.known_ns) AS known_ns
FROM {{ ref('int_requests') }} AS r
WHERE {{ only_changed('r.requested_on') }}
GROUP BY day, hour, model, backend, kind, basis, currency
