SELECT
    migration_id,
    model,
    candidate,
    reference,
    from_state,
    to_state,
    weight,
    route_version,
    reason,
    fromUnixTimestamp64Nano(at_ns, 'UTC') AS moved_at
FROM {{ source('ledger', 'migrations') }}
