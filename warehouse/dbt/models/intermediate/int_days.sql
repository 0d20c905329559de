-- When the rows about each day last changed. `held` says that something is left of it.
{{ config(materialized='table', order_by='day') }}

SELECT
    day,
    max(moment) AS changed_ns,
    max(holds) AS held
FROM
(
    SELECT started_on AS day, max(ingested_ns) AS moment, max(NOT withdrawn) AS holds
    FROM {{ ref('stg_attempts') }}
    GROUP BY day

    UNION ALL

    -- An attempt that was put together again may have left the day that it was on.
    SELECT
        arrayJoin(groupUniqArray(toDate(fromUnixTimestamp64Nano(i.started_ns, 'UTC')))) AS day,
        max(i.ingested_ns) AS moment,
        false AS holds
    FROM {{ source('ledger', 'imported_attempts') }} AS i
    GROUP BY i.attempt_id

    UNION ALL

    SELECT attempt_started_on AS day, max(known_ns) AS moment, false AS holds
    FROM {{ ref('stg_cost_lines') }}
    GROUP BY day

    UNION ALL

    SELECT window_start_on AS day, max(known_ns) AS moment, max(NOT withdrawn) AS holds
    FROM {{ ref('stg_idle_lines') }}
    GROUP BY day

    UNION ALL

    -- What a machine is holds until it is looked at again.
    SELECT
        arrayJoin(arrayMap(
            n -> addDays(toDate(observed_at), n), range(toUInt32(until - toDate(observed_at)) + 1)
        )) AS day,
        max(ingested_ns) AS moment,
        false AS holds
    FROM
    (
        SELECT
            observed_at,
            ingested_ns,
            greatest(toDate(observed_at), toDate(leadInFrame(observed_at, 1, now64(9, 'UTC')) OVER (
                PARTITION BY backend ORDER BY observed_at
                ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
            ))) AS until
        FROM {{ ref('stg_infra') }}
        WHERE backend != ''
    )
    GROUP BY day

    UNION ALL

    SELECT
        arrayJoin(arrayMap(
            n -> addDays(toDate(period_start), n),
            range(toUInt32(greatest(0, toDate(period_end) - toDate(period_start))) + 1)
        )) AS day,
        max(ingested_ns) AS moment,
        false AS holds
    FROM {{ ref('stg_invoice_lines') }}
    GROUP BY day
)
WHERE day > toDate('1970-01-01')
GROUP BY day
