-- What issuers billed, line by line. Lines without an invoice are provisional: they fall away for
-- a day, SKU and category that an invoice covers.
{{ config(materialized='table', order_by=['issuer', 'sku', 'day']) }}

SELECT
    i.issuer AS issuer,
    i.sku AS sku,
    i.category AS category,
    i.currency AS currency,
    toDate(i.period_start) AS day,
    greatest(1, intDiv(i.end_ns - toInt64(toUnixTimestamp(toStartOfDay(i.period_start))) * 1000000000
        + 86399999999999, 86400000000000)) AS days,
    multiIf(
        i.restated, 'restated',
        i.invoice = '', 'provisional',
        i.period_end + INTERVAL 30 DAY <= now64(9, 'UTC'), 'closed',
        'invoiced'
    ) AS state,
    i.billed AS billed
FROM {{ ref('stg_invoice_lines') }} AS i
WHERE i.invoice != '' OR (i.issuer, i.sku, i.category, toDate(i.period_start)) NOT IN
(
    SELECT p.issuer, p.sku, p.category, toDate(p.period_start)
    FROM {{ ref('stg_invoice_lines') }} AS p
    WHERE p.invoice != ''
)
