-- Of an invoice line that was stated twice, the order of digests decides, as everywhere.
SELECT
    issuer,
    invoice,
    line,
    category,
    correction,
    if(sku = '', meter, sku) AS sku,
    meter,
    description,
    backend,
    resource,
    commitment,
    fromUnixTimestamp64Nano(start_ns, 'UTC') AS period_start,
    fromUnixTimestamp64Nano(end_ns, 'UTC') AS period_end,
    start_ns,
    end_ns,
    quantity,
    unit,
    billed,
    effective,
    contracted,
    list_cost,
    currency,
    known_ns,
    ingested_ns
FROM {{ source('ledger', 'invoice_lines') }} FINAL
ORDER BY digest DESC
LIMIT 1 BY issuer, invoice, line
