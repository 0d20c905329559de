-- Cost as a service level: how many requests stayed within their budget, and how fast the
-- allowance for those that did not is used up (1 = exactly at the objective). A request is
-- within its budget by all its attempts; one that has attempts without a price, or amounts of
-- two bases, is unknown, and neither good nor bad.
{{ config(order_by=['hour', 'model', 'basis', 'currency']) }}

WITH
requests AS
(
    SELECT
        min(r.requested_hour) AS hour,
        r.request_id AS request_id,
        r.model AS model,
        sum(r.cost) AS cost,
        uniqExact(r.basis, r.currency) = 1 AND max(r.basis) NOT IN ('unpriced', 'mixed') AS known,
        if(known, max(r.basis), 'unpriced') AS basis,
        if(known, max(r.currency), '') AS currency
    FROM {{ ref('int_requests') }} AS r
    WHERE r.kind = 'serve'
    GROUP BY r.requested_on, r.request_id, r.model
),
hours AS
(
    SELECT
        toDateTime(hour, 'UTC') AS hour,
        intDiv(toUnixTimestamp(hour), 3600) AS hour_no,
        CAST(q.model AS String) AS model,
        q.basis AS basis,
        q.currency AS currency,
        any({{ cost_slo('budget', 'q.model') }}) AS budget,
        any({{ cost_slo('objective', 'q.model') }}) AS objective,
        count() AS requests,
        countIf(q.known AND q.cost <= {{ cost_slo('budget', 'q.model') }}) AS within_budget,
        countIf(q.known AND q.cost > {{ cost_slo('budget', 'q.model') }}) AS over_budget,
        countIf(NOT q.known) AS unknown,
        sum(q.cost) AS spend
    FROM requests AS q
    WHERE {{ cost_slo('budget', 'q.model') }} IS NOT NULL
    GROUP BY hour, hour_no, model, basis, currency
),
windows AS
(
    SELECT
        h.*,
        {% for span in [1, 6, 24, 72] -%}
        sum(h.over_budget) OVER w{{ span }} AS over_{{ span }}h,
        sum(h.within_budget + h.over_budget) OVER w{{ span }} AS of_{{ span }}h,
        {% endfor -%}
        sum(h.spend) OVER w24 AS spend_24h
    FROM hours AS h
    WINDOW
        {% for span in [1, 6, 24, 72] -%}
        w{{ span }} AS (
            PARTITION BY h.model, h.basis, h.currency ORDER BY h.hour_no
            RANGE BETWEEN {{ span - 1 }} PRECEDING AND CURRENT ROW
        ){{ "," if not loop.last }}
        {% endfor %}
)
SELECT
    toDate(w.hour) AS day,
    w.hour AS hour,
    w.model AS model,
    w.basis AS basis,
    w.currency AS currency,
    w.budget AS budget,
    w.objective AS objective,
    w.requests AS requests,
    w.within_budget AS within_budget,
    w.over_budget AS over_budget,
    w.unknown AS unknown,
    w.spend AS spend,
    w.spend_24h AS spend_24h,
    {{ exact_ratio('w.within_budget', 'w.within_budget + w.over_budget') }} AS share_within,
    {% for span in [1, 6, 24, 72] -%}
    {{ exact_ratio(
        'w.over_%dh' % span,
        'w.of_%dh * (%s - assumeNotNull(w.objective))' % (span, amount('1'))
    ) }} AS burn_{{ span }}h,
    {% endfor -%}
    multiIf(
        ifNull(burn_1h, 0) >= {{ amount('14.4') }} AND ifNull(burn_6h, 0) >= {{ amount('6') }}, 'fast',
        ifNull(burn_6h, 0) >= {{ amount('6') }} AND ifNull(burn_72h, 0) >= {{ amount('1') }}, 'slow',
        'none'
    ) AS alert
FROM windows AS w
