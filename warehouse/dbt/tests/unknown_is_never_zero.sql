-- An attempt has a price and a basis, or neither: no amount may stand for "not known".
SELECT attempt_id, cost_status, cost, basis, currency
FROM {{ ref('int_attempts') }}
WHERE (cost_status = 'priced') != (cost IS NOT NULL)
    OR (cost_status = 'priced') != (basis NOT IN ('unpriced', 'mixed'))
    OR (cost_status = 'priced') != (currency != '')
