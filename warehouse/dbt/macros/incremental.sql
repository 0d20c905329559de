{#- Facts arrive late and costs are restated, so a build does not ask which rows are new but
    which days changed, and makes those days again. -#}

{% macro only_changed(day) -%}
{#- The condition that keeps the days that may have changed since the last build. The days
    beside a changed one may hold attempts of the same requests. -#}
{%- if is_incremental() -%}
{{ day }} IN (
    SELECT arrayJoin([addDays(d.day, -1), d.day, addDays(d.day, 1)])
    FROM {{ ref('int_days') }} AS d
    WHERE d.changed_ns
        > (SELECT max(t.known_ns) FROM {{ this }} AS t)
            - {{ var('lookback_hours') }} * toInt64(3600000000000)
)
{%- else -%}
1
{%- endif -%}
{%- endmacro %}

{% macro forget_days(day) -%}
{#- After a build: days of which nothing is left have no partition that would replace theirs. -#}
{%- if is_incremental() -%}
DELETE FROM {{ this }} WHERE {{ day }} NOT IN (SELECT day FROM {{ ref('int_days') }} WHERE held)
{%- else -%}
SELECT 1
{%- endif -%}
{%- endmacro %}
