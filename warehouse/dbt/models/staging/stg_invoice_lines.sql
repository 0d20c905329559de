-- A line that an issuer sends again means the later one.
SELECT
    issuer,
    invoice,
    line,
    category,
    correction,
    sku,
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
    correction OR count() OVER (PARTITION BY issuer, invoice, line) > 1 AS restated,
    ingested_ns
FROM {{ source('ledger', 'invoice_lines') }} FINAL
ORDER BY known_ns DESC, digest DESC
LIMIT 1 BY issuer, invoice, line
