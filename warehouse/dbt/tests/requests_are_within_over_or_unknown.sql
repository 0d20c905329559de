-- Every request is judged once: a request that nobody judged would flatter the service level.
SELECT *
FROM {{ ref('cost_slo_burn') }}
WHERE within_budget + over_budget + unknown != requests
    OR (basis = 'unpriced') != (unknown > 0)
    OR (share_within IS NULL) != (basis = 'unpriced')
