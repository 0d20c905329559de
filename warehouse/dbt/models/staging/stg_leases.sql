SELECT
    lease_id,
    backend,
    accelerator,
    started_ns,
    seen_ns,
    fromUnixTimestamp64Nano(started_ns, 'UTC') AS started_at,
    fromUnixTimestamp64Nano(seen_ns, 'UTC') AS seen_at,
    ended,
    ingested_ns
FROM {{ source('ledger', 'leases') }} FINAL
