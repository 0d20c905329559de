{{ config(
    materialized='incremental',
    incremental_strategy='insert_overwrite',
    partition_by='day',
    order_by=['hour', 'model', 'backend', 'kind', 'basis', 'currency'],
    post_hook="{{ forget_days('day') }}",
) }}
-- depends_on: {{ ref('int_days') }}

SELECT
    p.* EXCEPT (known_ns),
    {{ exact_ratio('p.cost', 'p.priced_tokens', 1000000) }} AS cost_per_million_tokens,
    p.known_ns AS known_ns
FROM
(
    SELECT
        a.started_on AS day,
        toDateTime(toStartOfHour(a.started_at), 'UTC') AS hour,
        CAST(a.model AS String) AS model,
        CAST(a.backend AS String) AS backend,
        CAST(a.kind AS String) AS kind,
        a.basis AS basis,
        a.currency AS currency,
        sum(ifNull(a.in_uncached, 0)) AS in_uncached,
        sum(ifNull(a.in_cache_read, 0)) AS in_cache_read,
        sum(ifNull(a.in_cache_write, 0)) AS in_cache_write,
        sum(ifNull(a.out_visible, 0)) AS out_visible,
        sum(ifNull(a.out_reasoning, 0)) AS out_reasoning,
        -- Leaves of attempts of which another leaf of the same side is unknown: in no total.
        sum(if(a.input_tokens IS NULL,
            ifNull(a.in_uncached, 0) + ifNull(a.in_cache_read, 0) + ifNull(a.in_cache_write, 0), 0
        )) AS input_in_part,
        sum(if(a.output_tokens IS NULL,
            ifNull(a.out_visible, 0) + ifNull(a.out_reasoning, 0), 0
        )) AS output_in_part,
        {{ sums_of_attempts() }},
        max(a.known_ns) AS known_ns
    FROM {{ ref('int_attempts') }} AS a
    WHERE {{ only_changed('a.started_on') }}
    GROUP BY day, hour, model, backend, kind, basis, currency

    UNION ALL

    SELECT
        i.window_start_on AS day,
        toDateTime(toStartOfHour(i.window_start_at), 'UTC') AS hour,
        '(idle)' AS model,
        CAST(i.backend AS String) AS backend,
        'idle' AS kind,
        CAST(i.basis AS String) AS basis,
        CAST(i.currency AS String) AS currency,
        {% for column in [
            'in_uncached', 'in_cache_read', 'in_cache_write', 'out_visible', 'out_reasoning',
            'input_in_part', 'output_in_part',
        ] -%}
        toInt64(0) AS {{ column }},
        {% endfor -%}
        toUInt64(0) AS attempts,
        toUInt64(0) AS unpriced_attempts,
        toInt64(0) AS input_tokens,
        toInt64(0) AS output_tokens,
        toInt64(0) AS priced_tokens,
        toNullable(sum(i.amount)) AS cost,
        max(i.known_ns) AS known_ns
    FROM {{ ref('int_idle') }} AS i
    WHERE {{ only_changed('i.window_start_on') }}
    GROUP BY day, hour, model, backend, kind, basis, currency
) AS p
