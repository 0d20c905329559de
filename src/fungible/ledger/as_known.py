"""What was known at a moment, as relations that stand in for the views of now.

Rows count once they were ingested, lines once they were known; both are only ever appended.
Parameter: `{known:Int64}`.
"""

ATTEMPTS = """
(
    SELECT e.*,
        e.in_uncached + e.in_cache_read + e.in_cache_write AS input_tokens,
        e.out_visible + e.out_reasoning AS output_tokens,
        if(c.priced_id = '', NULL, c.amount) AS cost,
        c.currency AS currency,
        c.basis AS basis
    FROM
    (
        SELECT attempt_id AS priced_id, at_ns, sum(l.delta) AS amount,
            argMax(l.currency, l.known_ns) AS currency, argMax(l.basis, l.known_ns) AS basis
        FROM cost_lines AS l
        WHERE l.known_ns <= {known:Int64}
        GROUP BY priced_id, at_ns
        HAVING sum(l.priced) > 0
    ) AS c
    RIGHT JOIN
    (
        SELECT * FROM attempt_events WHERE ingested_ns <= {known:Int64}
        UNION ALL
        SELECT * FROM
        (
            SELECT * FROM imported_attempts WHERE ingested_ns <= {known:Int64}
            ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id
        )
    ) AS e ON c.priced_id = e.attempt_id AND c.at_ns = e.started_ns
    WHERE NOT e.withdrawn
)
"""
IDLE = """
(
    SELECT lease_id, argMax(l.backend, l.known_ns) AS backend, window_start_ns,
        argMax(l.window_end_ns, l.known_ns) AS window_end_ns, class, owner,
        argMax(l.amount, l.known_ns) AS amount, argMax(l.currency, l.known_ns) AS currency
    FROM idle_lines AS l
    WHERE l.known_ns <= {known:Int64}
    GROUP BY lease_id, window_start_ns, class, owner
    HAVING NOT argMax(l.withdrawn, l.known_ns)
)
"""
