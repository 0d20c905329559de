-- billed = priced + known gaps + unexplained, in every row that something was billed for. (How
-- much may be unexplained is for `fungible cost reconcile` to judge: an invoice is not ours.)
SELECT *
FROM {{ ref('reconciliation') }}
WHERE (billed IS NULL) != (state = 'estimated')
    OR billed != priced + known_gap + unexplained
