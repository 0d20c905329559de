SELECT
    lease_id,
    backend,
    window_start_ns,
    window_end_ns,
    fromUnixTimestamp64Nano(window_start_ns, 'UTC') AS window_start_at,
    toDate(fromUnixTimestamp64Nano(window_start_ns, 'UTC')) AS window_start_on,
    class AS idle_class,
    owner,
    amount,
    currency,
    basis,
    price_source,
    withdrawn,
    known_ns
FROM {{ source('ledger', 'idle_lines') }}
