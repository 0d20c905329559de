-- Every invoice line and every priced part is in the reconciliation once, per currency.
SELECT r.currency, r.billed, r.priced, w.billed AS billed_in_all, w.priced AS priced_in_all
FROM
(
    SELECT currency, sum(ifNull(billed, 0)) AS billed, sum(priced) AS priced
    FROM {{ ref('reconciliation') }}
    GROUP BY currency
) AS r
FULL OUTER JOIN
(
    SELECT currency, sum(b) AS billed, sum(p) AS priced FROM
    (
        SELECT CAST(currency AS String) AS currency, billed AS b, toDecimal128(0, 18) AS p
        FROM {{ ref('int_billed') }}
        UNION ALL
        SELECT CAST(currency AS String), toDecimal128(0, 18), priced
        FROM {{ ref('int_priced') }}
    )
    GROUP BY currency
) AS w ON w.currency = r.currency
WHERE r.billed != w.billed OR r.priced != w.priced
