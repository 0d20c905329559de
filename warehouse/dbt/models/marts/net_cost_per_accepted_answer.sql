-- Of each eval run: what its attempts cost, tries that failed and were repeated included, by
-- what it accepted. An incomplete bill must not look cheap: no price, no answer.
{{ config(order_by=['run_id', 'suite', 'backend']) }}

WITH
spent AS
(
    SELECT
        a.run_id AS run_id,
        a.backend AS backend,
        count() AS attempts,
        countIf(a.cost IS NULL) AS unpriced_attempts,
        sum(ifNull(a.input_tokens, 0) + ifNull(a.output_tokens, 0)) AS tokens,
        sum(a.cost) AS cost,
        uniqExactIf((a.basis, a.currency), a.cost IS NOT NULL) AS kinds,
        maxIf(a.basis, a.cost IS NOT NULL) AS basis,
        maxIf(a.currency, a.cost IS NOT NULL) AS currency
    FROM {{ ref('int_attempts') }} AS a
    WHERE a.run_id != ''
    GROUP BY run_id, backend
),
judged AS
(
    SELECT
        e.run_id AS run_id,
        e.suite AS suite,
        e.backend AS backend,
        min(e.answered_at) AS began_at,
        count() AS items,
        countIf(e.score IS NULL) AS unanswered,
        sum(e.accepted) AS accepted,
        -- A run asks one suite; if it asked two, its attempts cannot be told apart.
        uniqExact(e.suite) OVER (PARTITION BY e.run_id, e.backend) AS suites
    FROM {{ ref('stg_eval_items') }} AS e
    GROUP BY run_id, suite, backend
)
SELECT
    j.run_id AS run_id,
    CAST(j.suite AS String) AS suite,
    CAST(j.backend AS String) AS backend,
    toDate(j.began_at) AS day,
    j.items AS items,
    j.unanswered AS unanswered,
    j.accepted AS accepted,
    s.attempts AS attempts,
    s.unpriced_attempts AS unpriced_attempts,
    s.tokens AS tokens,
    multiIf(s.kinds = 1, s.basis, s.kinds = 0, 'unpriced', 'mixed') AS basis,
    s.currency AS currency,
    j.suites = 1 AND s.attempts > 0 AND s.unpriced_attempts = 0 AND s.kinds = 1 AS complete,
    if(s.kinds = 1, s.cost, NULL) AS cost,
    {{ exact_ratio('if(complete, s.cost, NULL)', 'j.accepted') }} AS net_cost,
    {{ exact_ratio('if(complete, s.cost, NULL)', 's.tokens', 1000000) }} AS cost_per_million_tokens
FROM judged AS j
LEFT JOIN spent AS s ON s.run_id = j.run_id AND s.backend = j.backend
