-- Amounts at list and at contracted prices, or in dollars and in euros, have no sum.
SELECT attempt_id, backend, basis
FROM {{ ref('int_attempts') }}
WHERE basis = 'mixed'
