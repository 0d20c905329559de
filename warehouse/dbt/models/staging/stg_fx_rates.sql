SELECT
    base,
    quote,
    day,
    rate,
    known_ns,
    source
FROM {{ source('ledger', 'fx_rates') }} FINAL
