SELECT
    run_id,
    trace,
    backend,
    binding,
    requests,
    failed,
    valid,
    ttft_p50_ms,
    ttft_p99_ms,
    tokens_per_s,
    wall_s,
    fromUnixTimestamp64Nano(at_ns, 'UTC') AS replayed_at
FROM {{ source('ledger', 'benches') }}
