-- Which invoices cover an issuer's days.
SELECT
    issuer,
    arrayJoin(arrayMap(
        n -> addDays(toDate(period_start), n),
        range(toUInt32(greatest(1, dateDiff('day', period_start, period_end))))
    )) AS day,
    arrayStringConcat(arraySort(groupUniqArray(invoice)), ' ') AS invoices
FROM {{ ref('stg_invoice_lines') }}
WHERE category = 'usage' AND issuer != ''
GROUP BY issuer, day
