-- What attempts used and what nobody used make a lease's bill: at one price, each whole minute
-- of a lease costs the same, but for the one unit of 10^-18 that rounding may carry from one
-- minute to the next. Minutes that pricing is at work on are left out.
WITH
(SELECT max(known_ns) FROM {{ source('ledger', 'pricing_runs') }}) AS done_ns,
lines AS
(
    SELECT lease_id, window_start_ns, toInt64(0) AS window_end_ns,
        argMax(amount, l.known_ns) AS amount, '' AS price, max(l.known_ns) AS newest_ns
    FROM {{ ref('stg_cost_lines') }} AS l
    WHERE lease_id != ''
    GROUP BY attempt_id, lease_id, window_start_ns
    HAVING NOT argMax(withdrawn, l.known_ns) OR newest_ns > done_ns
    UNION ALL
    SELECT lease_id, window_start_ns, argMax(l.window_end_ns, l.known_ns),
        argMax(amount, l.known_ns), argMax(l.price_source, l.known_ns), max(l.known_ns) AS newest_ns
    FROM {{ ref('stg_idle_lines') }} AS l
    GROUP BY lease_id, window_start_ns, idle_class, owner
    HAVING NOT argMax(withdrawn, l.known_ns) OR newest_ns > done_ns
),
minutes AS
(
    SELECT lease_id, window_start_ns, sum(amount) AS cost, max(price) AS price
    FROM lines
    GROUP BY lease_id, window_start_ns
    HAVING max(window_end_ns) - window_start_ns = 60000000000 AND max(newest_ns) <= done_ns
)
SELECT lease_id, price, min(cost) AS least, max(cost) AS most, count() AS windows
FROM minutes
GROUP BY lease_id, price
HAVING most - least > toDecimal128('0.000000000000000001', 18)
