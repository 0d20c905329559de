-- What attempts cost: of several lines about the same thing the newest holds. The day is in the
-- key so that a build of some days reads only theirs; an attempt that changed its day has had
-- its lines of the old day withdrawn.
SELECT
    attempt_id,
    attempt_started_on,
    basis,
    currency,
    sum(amount) AS amount,
    min(rule) AS rule,
    max(issuer) AS issuer,
    max(known_ns) AS known_ns
FROM
(
    SELECT
        l.attempt_id AS attempt_id,
        l.attempt_started_on AS attempt_started_on,
        argMax(l.amount, l.known_ns) AS amount,
        argMax(l.basis, l.known_ns) AS basis,
        argMax(l.currency, l.known_ns) AS currency,
        argMax(l.rule, l.known_ns) AS rule,
        argMax(l.issuer, l.known_ns) AS issuer,
        max(l.known_ns) AS known_ns
    FROM {{ ref('stg_cost_lines') }} AS l
    GROUP BY l.attempt_id, l.attempt_started_on, l.lease_id, l.window_start_ns
    HAVING NOT argMax(l.withdrawn, l.known_ns)
)
GROUP BY attempt_id, attempt_started_on, basis, currency
