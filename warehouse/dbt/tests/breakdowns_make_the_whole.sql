-- Every breakdown is of the same bill: what attempts cost and what idle time cost, per basis
-- and currency, to the last digit.
WITH whole AS
(
    SELECT basis, currency, sum(cost) AS attempts_cost, toDecimal128(0, 18) AS idle_cost
    FROM {{ ref('int_attempts') }}
    WHERE cost IS NOT NULL
    GROUP BY basis, currency
    UNION ALL
    SELECT basis, currency, toDecimal128(0, 18), sum(amount)
    FROM {{ ref('int_idle') }}
    GROUP BY basis, currency
),
bill AS
(
    SELECT basis, currency, sum(attempts_cost) AS attempts_cost, sum(idle_cost) AS idle_cost
    FROM whole
    GROUP BY basis, currency
),
parts AS
(
    {% for mart in [
        'cost_per_token_hourly', 'cost_by_feature', 'cost_by_customer', 'cost_by_owner',
    ] -%}
    SELECT '{{ mart }}' AS mart, basis, currency, sumIf(cost, kind != 'idle') AS attempts_cost,
        sumIf(cost, kind = 'idle') AS idle_cost
    FROM {{ ref(mart) }}
    WHERE cost IS NOT NULL
    GROUP BY basis, currency
    UNION ALL
    {% endfor -%}
    SELECT 'cost_per_request_hourly', basis, currency, sum(cost), toDecimal128(0, 18)
    FROM {{ ref('cost_per_request_hourly') }}
    WHERE cost IS NOT NULL
    GROUP BY basis, currency
    UNION ALL
    SELECT 'performance_per_dollar', basis, currency, sum(ifNull(cost, 0)), sum(idle_cost)
    FROM {{ ref('performance_per_dollar') }}
    WHERE loaded_cost IS NOT NULL
    GROUP BY basis, currency
)
SELECT p.*, b.attempts_cost AS bill_attempts_cost, b.idle_cost AS bill_idle_cost
FROM parts AS p
FULL OUTER JOIN bill AS b ON b.basis = p.basis AND b.currency = p.currency
WHERE ifNull(p.attempts_cost, 0) != ifNull(b.attempts_cost, 0)
    OR (p.mart != 'cost_per_request_hourly' AND ifNull(p.idle_cost, 0) != ifNull(b.idle_cost, 0))
