{#- One mart per dimension, made in one place so that their sums cannot differ. Idle time is a
    kind of its own: under its owner by owner, under `(idle)` otherwise. -#}

{% macro sums_of_attempts() -%}
    count() AS attempts,
    countIf(a.cost IS NULL) AS unpriced_attempts,
    sum(ifNull(a.input_tokens, 0)) AS input_tokens,
    sum(ifNull(a.output_tokens, 0)) AS output_tokens,
    sumIf(ifNull(a.input_tokens, 0) + ifNull(a.output_tokens, 0), a.cost IS NOT NULL)
        AS priced_tokens,
    sum(a.cost) AS cost
{%- endmacro %}

{% macro cost_by(dimension) -%}
SELECT
    p.* EXCEPT (known_ns),
    {{ exact_ratio('p.cost', 'p.priced_tokens', 1000000) }} AS cost_per_million_tokens,
    {{ exact_ratio('p.cost', 'p.requests') }} AS cost_per_request,
    p.known_ns AS known_ns
FROM
(
    SELECT
        a.started_on AS day,
        if(a.{{ dimension }} = '', '(unattributed)', CAST(a.{{ dimension }} AS String)) AS {{ dimension }},
        CAST(a.kind AS String) AS kind,
        a.basis AS basis,
        a.currency AS currency,
        uniqExact(a.request_id) AS requests,
        {{ sums_of_attempts() }},
        max(a.known_ns) AS known_ns
    FROM {{ ref('int_attempts') }} AS a
    WHERE {{ only_changed('a.started_on') }}
    GROUP BY day, {{ dimension }}, kind, basis, currency

    UNION ALL

    SELECT
        i.window_start_on AS day,
        {% if dimension == 'owner' -%}
        if(i.owner = '', '(unattributed)', CAST(i.owner AS String)) AS owner,
        {%- else -%}
        '(idle)' AS {{ dimension }},
        {%- endif %}
        'idle' AS kind,
        CAST(i.basis AS String) AS basis,
        CAST(i.currency AS String) AS currency,
        toUInt64(0) AS requests,
        toUInt64(0) AS attempts,
        toUInt64(0) AS unpriced_attempts,
        toInt64(0) AS input_tokens,
        toInt64(0) AS output_tokens,
        toInt64(0) AS priced_tokens,
        toNullable(sum(i.amount)) AS cost,
        max(i.known_ns) AS known_ns
    FROM {{ ref('int_idle') }} AS i
    WHERE {{ only_changed('i.window_start_on') }}
    GROUP BY day, {{ dimension }}, kind, basis, currency
) AS p
{%- endmacro %}
