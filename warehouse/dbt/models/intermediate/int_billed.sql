-- What issuers billed, in the currency of what was priced, by the rate of the day on which the
-- period begins. What is billed for one SKU and period is converted together: rounded once. Where
-- no rate is recent enough, it stays in its own currency. Lines without an invoice (a billing
-- period may stand in its place) are provisional: they fall away for a day, SKU and category that
-- an invoice covers.
{{ config(materialized='table', order_by=['issuer', 'sku', 'day']) }}

WITH
lines AS
(
    SELECT
        i.issuer AS issuer,
        i.sku AS sku,
        i.category AS category,
        CAST(i.currency AS String) AS currency,
        i.period_start AS period_start,
        i.period_end AS period_end,
        i.end_ns AS end_ns,
        NOT match(i.invoice, '^($|[0-9]{4}-[0-9]{2}-[0-9]{2})') AS invoiced,
        max(i.restated) AS restated,
        sum(i.billed) AS billed
    FROM {{ ref('stg_invoice_lines') }} AS i
    GROUP BY issuer, sku, category, currency, period_start, period_end, end_ns, invoiced
)
SELECT
    l.issuer AS issuer,
    l.sku AS sku,
    l.category AS category,
    if(c.denominator = 0, l.currency, c.reported) AS currency,
    toDate(l.period_start) AS day,
    greatest(1, intDiv(l.end_ns - toInt64(toUnixTimestamp(toStartOfDay(l.period_start))) * 1000000000
        + 86399999999999, 86400000000000)) AS days,
    multiIf(
        l.restated, 'restated',
        NOT l.invoiced, 'provisional',
        l.period_end + INTERVAL 30 DAY <= now64(9, 'UTC'), 'closed',
        'invoiced'
    ) AS state,
    if(
        c.denominator = 0,
        l.billed,
        {{ converted('l.billed', 'c.numerator', 'greatest(c.denominator, toUInt256(1))') }}
    ) AS billed
FROM lines AS l
LEFT JOIN {{ ref('int_conversions') }} AS c
    ON c.currency = l.currency AND c.day = toDate(l.period_start)
WHERE l.invoiced OR (l.issuer, l.sku, l.category, toDate(l.period_start)) NOT IN
(
    SELECT p.issuer, p.sku, p.category, toDate(p.period_start)
    FROM lines AS p
    WHERE p.invoiced
)
