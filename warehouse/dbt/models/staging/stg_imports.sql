SELECT
    stream,
    digest,
    source,
    rows AS rows_read,
    rejected,
    fromUnixTimestamp64Nano(at_ns, 'UTC') AS imported_at
FROM {{ source('ledger', 'imports') }} FINAL
