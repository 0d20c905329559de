-- Used and unused parts make what was paid for.
SELECT *
FROM {{ ref('commitment_utilisation') }}
WHERE used_cost + unused_cost != committed_cost OR (source = 'lease' AND unused_cost < 0)
