-- How much of what was bound in advance was used: leases of our own, by day, and commitments
-- that invoices name, by the period of each purchase.
{{ config(order_by=['source', 'commitment', 'period_start', 'basis', 'currency']) }}

WITH
lease_costs AS
(
    SELECT
        l.lease_id AS lease_id,
        toDate(fromUnixTimestamp64Nano(l.window_start_ns, 'UTC')) AS day,
        l.basis AS basis,
        l.currency AS currency,
        any(l.backend) AS backend,
        sum(l.amount) AS amount
    FROM
    (
        SELECT
            c.attempt_id, c.lease_id AS lease_id, c.window_start_ns AS window_start_ns,
            argMax(c.backend, c.known_ns) AS backend,
            argMax(c.amount, c.known_ns) AS amount,
            argMax(c.basis, c.known_ns) AS basis,
            argMax(c.currency, c.known_ns) AS currency
        FROM {{ ref('stg_cost_lines') }} AS c
        WHERE c.lease_id != ''
        GROUP BY c.attempt_id, lease_id, window_start_ns
        HAVING NOT argMax(c.withdrawn, c.known_ns)
    ) AS l
    GROUP BY lease_id, day, basis, currency
),
lease_days AS
(
    SELECT lease_id, day, basis, currency, any(backend) AS backend,
        sum(used) AS used_cost, sum(unused) AS unused_cost
    FROM
    (
        SELECT lease_id, day, basis, currency, backend, amount AS used,
            toDecimal128(0, 18) AS unused
        FROM lease_costs
        UNION ALL
        SELECT i.lease_id, i.window_start_on, i.basis, i.currency, i.backend,
            toDecimal128(0, 18), i.amount
        FROM {{ ref('int_idle') }} AS i
    )
    GROUP BY lease_id, day, basis, currency
),
purchases AS
(
    SELECT issuer, commitment, currency, period_start, period_end, sum(billed) AS committed
    FROM {{ ref('stg_invoice_lines') }}
    WHERE commitment != '' AND category = 'purchase'
    GROUP BY issuer, commitment, currency, period_start, period_end
),
drawn AS
(
    SELECT issuer, commitment, currency, period_start,
        sum(ifNull(effective, billed)) AS used
    FROM {{ ref('stg_invoice_lines') }}
    WHERE commitment != '' AND category = 'usage'
    GROUP BY issuer, commitment, currency, period_start
)
SELECT
    'lease' AS source,
    lease_id AS commitment,
    CAST(backend AS String) AS backend,
    toDateTime(day, 'UTC') AS period_start,
    toDateTime(addDays(day, 1), 'UTC') AS period_end,
    CAST(basis AS String) AS basis,
    CAST(currency AS String) AS currency,
    used_cost + unused_cost AS committed_cost,
    used_cost AS used_cost,
    unused_cost AS unused_cost,
    {{ exact_ratio('used_cost', 'used_cost + unused_cost') }} AS utilisation
FROM lease_days

UNION ALL

SELECT
    'invoice' AS source,
    p.commitment AS commitment,
    CAST(p.issuer AS String) AS backend,
    toDateTime(p.period_start, 'UTC') AS period_start,
    toDateTime(p.period_end, 'UTC') AS period_end,
    'billed' AS basis,
    CAST(p.currency AS String) AS currency,
    p.committed AS committed_cost,
    sum(ifNull(d.used, toDecimal128(0, 18))) AS used_cost,
    p.committed - sum(ifNull(d.used, toDecimal128(0, 18))) AS unused_cost,
    {{ exact_ratio('used_cost', 'p.committed') }} AS utilisation
FROM purchases AS p
LEFT JOIN drawn AS d
    ON d.issuer = p.issuer AND d.commitment = p.commitment AND d.currency = p.currency
    AND d.period_start >= p.period_start AND d.period_start < p.period_end
GROUP BY p.commitment, p.issuer, p.period_start, p.period_end, p.currency, p.committed
