-- billed = priced + known gaps + unexplained, as `fungible cost reconcile` has it. What is billed
-- for use is compared with what was priced; taxes, credits, purchases and adjustments are known
-- gaps in full. A SKU that is billed by longer periods than a day is compared over those.
{{ config(order_by=['issuer', 'sku', 'day', 'days', 'category', 'basis', 'currency']) }}

WITH
usage AS
(
    SELECT issuer, sku, day, days, currency, sum(b.billed) AS billed,
        -- The least certain of its lines.
        ['restated', 'provisional', 'invoiced', 'closed'][min(indexOf(
            ['restated', 'provisional', 'invoiced', 'closed'], b.state
        ))] AS state
    FROM {{ ref('int_billed') }} AS b
    WHERE category = 'usage'
    GROUP BY issuer, sku, day, days, currency
),
spans AS
(
    SELECT issuer, sku, currency, groupUniqArray((day, days)) AS periods
    FROM usage
    WHERE days > 1
    GROUP BY issuer, sku, currency
),
named AS
(
    SELECT
        if(n.backend = '' OR n.issuer != '', n.issuer, {{ hourly_price('issuer', 'n') }}) AS issuer,
        if(n.backend = '', n.sku, {{ hourly_price('sku', 'n') }}) AS sku,
        n.day AS day, n.basis AS basis, n.currency AS currency, n.priced AS priced
    FROM {{ ref('int_priced') }} AS n
),
priced AS
(
    SELECT
        p.issuer AS issuer,
        p.sku AS sku,
        arrayFirst(
            s -> s.2 = 0 OR (p.day >= s.1 AND p.day < addDays(s.1, s.2)),
            arrayConcat(arraySort(l.periods), [(p.day, toInt64(0))])
        ) AS period,
        period.1 AS day,
        greatest(1, period.2) AS days,
        CAST(p.basis AS String) AS basis,
        CAST(p.currency AS String) AS currency,
        sum(p.priced) AS priced
    FROM named AS p
    LEFT JOIN spans AS l
        ON l.issuer = p.issuer AND l.sku = p.sku AND l.currency = p.currency
    GROUP BY issuer, sku, period, basis, currency
)
SELECT
    CAST(if(u.state = '', p.issuer, u.issuer) AS String) AS issuer,
    CAST(if(u.state = '', p.sku, u.sku) AS String) AS sku,
    if(u.state = '', p.day, u.day) AS day,
    toInt64(if(u.state = '', p.days, u.days)) AS days,
    'usage' AS category,
    if(p.basis = '', 'unpriced', p.basis) AS basis,
    CAST(if(u.state = '', p.currency, u.currency) AS String) AS currency,
    if(u.state = '', 'estimated', u.state) AS state,
    if(u.state = '', NULL, toNullable(u.billed)) AS billed,
    p.priced AS priced,
    toDecimal128(0, 18) AS known_gap,
    if(u.state = '', NULL, toNullable(u.billed - p.priced)) AS unexplained
FROM usage AS u
FULL OUTER JOIN priced AS p
    ON p.issuer = u.issuer AND p.sku = u.sku AND p.day = u.day AND p.days = u.days
    AND p.currency = u.currency

UNION ALL

SELECT
    CAST(g.issuer AS String) AS issuer,
    CAST(g.sku AS String) AS sku,
    g.day AS day,
    toInt64(g.days) AS days,
    CAST(g.category AS String) AS category,
    'billed' AS basis,
    CAST(g.currency AS String) AS currency,
    ['restated', 'provisional', 'invoiced', 'closed'][min(indexOf(
        ['restated', 'provisional', 'invoiced', 'closed'], g.state
    ))] AS state,
    toNullable(sum(g.billed)) AS billed,
    toDecimal128(0, 18) AS priced,
    sum(g.billed) AS known_gap,
    toNullable(toDecimal128(0, 18)) AS unexplained
FROM {{ ref('int_billed') }} AS g
WHERE g.category != 'usage'
GROUP BY issuer, sku, day, days, category, currency
