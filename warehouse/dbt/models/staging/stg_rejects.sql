SELECT
    stream,
    digest,
    source,
    place,
    reason,
    fromUnixTimestamp64Nano(at_ns, 'UTC') AS rejected_at
FROM {{ source('ledger', 'rejects') }} FINAL
