-- Tokens and good answers per unit of currency, beside the speed that they came at. Time that a
-- backend was paid for and not used counts in `loaded_cost`.
{{ config(order_by=['day', 'backend', 'basis', 'currency']) }}

WITH
scored AS
(
    SELECT a.started_on AS day, a.backend AS backend, a.basis AS basis, a.currency AS currency,
        count() AS answers_scored, sum(e.accepted) AS accepted, sum(a.cost) AS scored_cost
    FROM {{ ref('stg_eval_items') }} AS e
    INNER JOIN {{ ref('int_attempts') }} AS a ON a.attempt_id = e.attempt_id
    WHERE e.attempt_id != ''
    GROUP BY day, backend, basis, currency
),
used AS
(
    SELECT
        a.started_on AS day,
        a.backend AS backend,
        a.basis AS basis,
        a.currency AS currency,
        argMax(a.accelerator, a.ended_ns) AS accelerator,
        {{ sums_of_attempts() }},
        countIf(a.status IN ('error', 'interrupted')) AS errors,
        quantilesTDigestIf(0.5, 0.95, 0.99)(
            assumeNotNull(a.ttft_ms),
            a.streamed AND a.ttft_ms IS NOT NULL AND a.kind IN ('serve', 'shadow')
        ) AS ttft,
        countIf(a.streamed AND a.ttft_ms IS NOT NULL AND a.kind IN ('serve', 'shadow')) AS timed,
        quantilesTDigestIf(0.5, 0.95, 0.99)(
            a.total_ms, a.status = 'ok' AND a.kind IN ('serve', 'shadow')
        ) AS total,
        countIf(a.status = 'ok' AND a.kind IN ('serve', 'shadow')) AS completed
    FROM {{ ref('int_attempts') }} AS a
    GROUP BY day, backend, basis, currency
),
unused AS
(
    SELECT i.window_start_on AS day, i.backend AS backend, i.basis AS basis,
        i.currency AS currency, sum(i.amount) AS idle_cost
    FROM {{ ref('int_idle') }} AS i
    GROUP BY day, backend, basis, currency
),
-- A day without attempts may have idle time, and the other way round.
both AS
(
    SELECT
        if(u.day > n.day, u.day, n.day) AS day,
        if(u.backend = '', CAST(n.backend AS String), CAST(u.backend AS String)) AS backend,
        if(u.basis = '', CAST(n.basis AS String), u.basis) AS basis,
        if(u.currency = '', CAST(n.currency AS String), u.currency) AS currency,
        CAST(u.accelerator AS String) AS accelerator,
        u.attempts AS attempts, u.unpriced_attempts AS unpriced_attempts, u.errors AS errors,
        u.input_tokens AS input_tokens, u.output_tokens AS output_tokens,
        u.priced_tokens AS priced_tokens, u.ttft AS ttft, u.timed AS timed, u.total AS total,
        u.completed AS completed,
        u.cost AS cost,
        n.idle_cost AS idle_cost
    FROM used AS u
    FULL OUTER JOIN unused AS n
        ON n.day = u.day AND n.backend = u.backend AND n.basis = u.basis
        AND n.currency = u.currency
)
SELECT
    b.day AS day,
    b.backend AS backend,
    b.basis AS basis,
    b.currency AS currency,
    b.accelerator AS accelerator,
    b.attempts AS attempts,
    b.unpriced_attempts AS unpriced_attempts,
    b.errors AS errors,
    b.input_tokens AS input_tokens,
    b.output_tokens AS output_tokens,
    b.priced_tokens AS priced_tokens,
    b.cost AS cost,
    b.idle_cost AS idle_cost,
    if(b.basis = 'unpriced', NULL, ifNull(b.cost, toDecimal128(0, 18)) + b.idle_cost)
        AS loaded_cost,
    {{ exact_ratio('b.priced_tokens', 'b.cost') }} AS tokens_per_unit,
    {{ exact_ratio('b.priced_tokens', 'loaded_cost') }} AS tokens_per_unit_loaded,
    if(b.timed > 0, toNullable(toFloat64(b.ttft[1])), NULL) AS ttft_p50_ms,
    if(b.timed > 0, toNullable(toFloat64(b.ttft[2])), NULL) AS ttft_p95_ms,
    if(b.timed > 0, toNullable(toFloat64(b.ttft[3])), NULL) AS ttft_p99_ms,
    if(b.completed > 0, toNullable(toFloat64(b.total[1])), NULL) AS total_p50_ms,
    if(b.completed > 0, toNullable(toFloat64(b.total[2])), NULL) AS total_p95_ms,
    if(b.completed > 0, toNullable(toFloat64(b.total[3])), NULL) AS total_p99_ms,
    s.answers_scored AS answers_scored,
    if(s.answers_scored > 0, toNullable(s.accepted), NULL) AS accepted_answers,
    if(s.answers_scored > 0, s.scored_cost, NULL) AS scored_cost,
    {{ exact_ratio('accepted_answers', 's.scored_cost') }} AS accepted_per_unit
FROM both AS b
LEFT JOIN scored AS s
    ON s.day = b.day AND s.backend = b.backend AND s.basis = b.basis AND s.currency = b.currency
