SELECT
    attempt_id,
    lease_id,
    window_start_ns,
    backend,
    issuer,
    amount,
    currency,
    basis,
    rule,
    parts,
    price_source,
    withdrawn,
    -- Lines from before attempts' starts were written on them are of no known day.
    toDate(fromUnixTimestamp64Nano(at_ns, 'UTC')) AS attempt_started_on,
    known_ns
FROM {{ source('ledger', 'cost_lines') }}
