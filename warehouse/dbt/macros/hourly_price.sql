{% macro hourly_price(field, row) -%}
{#- Issuer or SKU of a backend's hour on a day, by the variable `hourly_prices`, which
    `fungible warehouse build` fills in from the price book; else the backend, and `hour`. -#}
multiIf(
    {%- for price in var('hourly_prices') %}
    {{ row }}.backend = '{{ price.backend | replace("'", "''") }}'
        AND {{ row }}.day >= toDate('{{ price.first_day }}')
        AND {{ row }}.day <= toDate('{{ price.last_day }}'),
        '{{ price[field] | replace("'", "''") }}',
    {%- endfor %}
    0, '',
    {{ row ~ '.backend' if field == 'issuer' else "'hour'" }}
)
{%- endmacro %}
