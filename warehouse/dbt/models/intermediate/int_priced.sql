-- What was priced, by the issuer and SKU that an invoice would name: tokens by the SKU of their
-- price. The time of leases, idle or not, has no SKU yet: its backend's price names it.
{{ config(
    materialized='incremental',
    incremental_strategy='insert_overwrite',
    partition_by='day',
    order_by=['issuer', 'backend', 'sku', 'basis', 'currency'],
    post_hook="{{ forget_days('day') }}",
) }}
-- depends_on: {{ ref('int_days') }}

SELECT issuer, backend, sku, day, basis, currency, sum(amount) AS priced,
    max(known_ns) AS known_ns
FROM
(
    SELECT
        CAST(issuer AS String) AS issuer,
        '' AS backend,
        CAST(part.1 AS String) AS sku,
        toDate(fromUnixTimestamp64Nano(window_start_ns, 'UTC')) AS day,
        basis,
        currency,
        part.2 AS amount,
        known_ns
    FROM
    (
        SELECT
            argMax(l.issuer, l.known_ns) AS issuer,
            argMax(l.parts, l.known_ns) AS parts,
            argMax(l.basis, l.known_ns) AS basis,
            argMax(l.currency, l.known_ns) AS currency,
            max(l.known_ns) AS known_ns,
            l.window_start_ns AS window_start_ns
        FROM {{ ref('stg_cost_lines') }} AS l
        WHERE l.lease_id = '' AND {{ only_changed("toDate(fromUnixTimestamp64Nano(l.window_start_ns, 'UTC'))") }}
        GROUP BY l.attempt_id, l.window_start_ns
        HAVING NOT argMax(l.withdrawn, l.known_ns)
    )
    ARRAY JOIN CAST(parts, 'Array(Tuple(String, Decimal(38, 18)))') AS part

    UNION ALL

    SELECT
        issuer,
        backend,
        '' AS sku,
        toDate(fromUnixTimestamp64Nano(window_start_ns, 'UTC')) AS day,
        basis,
        currency,
        amount,
        known_ns
    FROM
    (
        SELECT
            argMax(CAST(l.issuer AS String), l.known_ns) AS issuer,
            argMax(CAST(l.backend AS String), l.known_ns) AS backend,
            argMax(l.basis, l.known_ns) AS basis,
            argMax(l.currency, l.known_ns) AS currency,
            argMax(l.amount, l.known_ns) AS amount,
            max(l.known_ns) AS known_ns,
            l.window_start_ns AS window_start_ns
        FROM {{ ref('stg_cost_lines') }} AS l
        WHERE l.lease_id != ''
            AND {{ only_changed("toDate(fromUnixTimestamp64Nano(l.window_start_ns, 'UTC'))") }}
        GROUP BY l.attempt_id, l.lease_id, l.window_start_ns
        HAVING NOT argMax(l.withdrawn, l.known_ns)
    )

    UNION ALL

    SELECT '', CAST(i.backend AS String), '', i.window_start_on, i.basis, i.currency, i.amount,
        i.known_ns
    FROM {{ ref('int_idle') }} AS i
    WHERE {{ only_changed('i.window_start_on') }}
)
GROUP BY issuer, backend, sku, day, basis, currency
