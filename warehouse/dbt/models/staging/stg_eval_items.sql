SELECT
    run_id,
    suite,
    suite_hash,
    item_id,
    cluster,
    backend,
    attempt_id,
    score,
    -- Scores are summed as decimals, as `fungible eval` does.
    toDecimal128(ifNull(score, 0), 12) AS accepted,
    output_tokens,
    finish_reason,
    fromUnixTimestamp64Nano(at_ns, 'UTC') AS answered_at
FROM {{ source('ledger', 'eval_items') }}
