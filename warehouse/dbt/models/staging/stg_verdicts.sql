SELECT
    verdict_id,
    model,
    suite,
    suite_hash,
    candidate,
    reference,
    binding,
    reference_binding,
    outcome,
    items,
    reference_score,
    candidate_score,
    margin,
    loss_upper,
    reasons,
    fromUnixTimestamp64Nano(decided_ns, 'UTC') AS decided_at,
    fromUnixTimestamp64Nano(expires_ns, 'UTC') AS expires_at
FROM {{ source('ledger', 'verdicts') }}
