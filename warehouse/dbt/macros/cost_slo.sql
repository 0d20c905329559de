{% macro cost_slo(field, model) -%}
{#- `budget` or `objective` of a model by the variable `cost_slos`; NULL where it has none. -#}
{%- set slos = var('cost_slos') -%}
{%- for slo in slos -%}
    {%- if not slo.budget is string or not slo.objective is string -%}
        {{ exceptions.raise_compiler_error(
            "cost_slos: write amounts in quotes, such as budget: '0.01'; YAML's numbers are Floats"
        ) }}
    {%- endif -%}
{%- endfor -%}
multiIf(
    {%- for slo in slos if slo.model %}
    {{ model }} = '{{ slo.model | replace("'", "''") }}', toNullable({{ amount(slo[field]) }}),
    {%- endfor -%}
    {%- for slo in slos if not slo.model %}
    1, toNullable({{ amount(slo[field]) }}),
    {%- endfor %}
    0, toNullable({{ amount('0') }}),
    CAST(NULL AS Nullable(Decimal(38, 18)))
)
{%- endmacro %}
