-- Time that was paid for and that no attempt used: the newest line of each stretch.
{{ config(
    materialized='incremental',
    incremental_strategy='insert_overwrite',
    partition_by='window_start_on',
    order_by=['lease_id', 'window_start_ns', 'idle_class', 'owner'],
    post_hook="{{ forget_days('window_start_on') }}",
) }}
-- depends_on: {{ ref('int_days') }}

SELECT
    l.lease_id AS lease_id,
    l.window_start_on AS window_start_on,
    l.window_start_at AS window_start_at,
    l.window_start_ns AS window_start_ns,
    argMax(l.window_end_ns, l.known_ns) AS window_end_ns,
    l.idle_class AS idle_class,
    l.owner AS owner,
    argMax(l.backend, l.known_ns) AS backend,
    argMax(l.amount, l.known_ns) AS amount,
    argMax(l.basis, l.known_ns) AS basis,
    argMax(l.currency, l.known_ns) AS currency,
    argMax(l.price_source, l.known_ns) AS price_source,
    max(l.known_ns) AS known_ns
FROM {{ ref('stg_idle_lines') }} AS l
WHERE {{ only_changed('l.window_start_on') }}
GROUP BY
    l.lease_id, l.window_start_on, l.window_start_at, l.window_start_ns, l.idle_class, l.owner
HAVING NOT argMax(l.withdrawn, l.known_ns)
