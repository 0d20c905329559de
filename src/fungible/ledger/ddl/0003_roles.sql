-- Why each attempt was made; rows from before it was recorded say what can be told.
ALTER TABLE attempt_events ADD COLUMN IF NOT EXISTS role LowCardinality(String)
    DEFAULT multiIf(kind = 'shadow', 'shadow', attempt_no = 0, 'first', '') AFTER attempt_no;

-- The same view again: its `*` was expanded when it was made.
-- The one table to ask: what was asked, where it went, how long it took, what it cost.
CREATE OR REPLACE VIEW attempts AS
SELECT
    e.*,
    fromUnixTimestamp64Nano(e.started_ns, 'UTC') AS started_at,
    e.in_uncached + e.in_cache_read + e.in_cache_write AS input_tokens,
    e.out_visible + e.out_reasoning AS output_tokens,
    if(c.attempt_id = '', NULL, c.amount) AS cost,
    c.currency AS currency,
    c.basis AS basis,
    if(c.attempt_id = '', 'unpriced', 'priced') AS cost_status
FROM attempt_events AS e
LEFT JOIN
(
    SELECT
        attempt_id,
        sum(l.amount) AS amount,
        any(l.currency) AS currency,
        any(l.basis) AS basis
    FROM costs AS l
    GROUP BY attempt_id
) AS c ON c.attempt_id = e.attempt_id;
