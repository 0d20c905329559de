SELECT
    provider,
    resource,
    kind AS resource_kind,
    parent,
    backend,
    accelerator,
    accelerators,
    instance_type,
    region,
    zone,
    capacity,
    labels,
    started_ns,
    ended_ns,
    observed_ns,
    fromUnixTimestamp64Nano(observed_ns, 'UTC') AS observed_at,
    ingested_ns
FROM {{ source('ledger', 'infra') }} FINAL
