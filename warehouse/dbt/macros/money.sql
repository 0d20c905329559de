{#- Money is Decimal(38, 18): exact for amounts below 10^20. `avg` of a Decimal and a product or
    quotient with a Float are Float64 in ClickHouse, and a product of two Decimals adds their
    scales; so ratios of money are made here, nowhere else. -#}

{% macro exact_ratio(part, whole, times=1) -%}
{#- part × times / whole, cut after 18 decimals; NULL when part is unknown or whole is not
    positive. `part` is money or a count, and so is `whole`. -#}
if(
    ifNull({{ whole }}, 0) > 0,
    CAST(divideDecimal(
        CAST({{ part }} AS Nullable(Decimal(76, 18))) * {{ times }},
        if(ifNull({{ whole }}, 0) > 0, CAST(ifNull({{ whole }}, 0) AS Decimal(76, 18)), 1::Decimal(76, 18)),
        18
    ) AS Nullable(Decimal(38, 18))),
    NULL
)
{%- endmacro %}

{% macro amount(text) -%}
{#- A literal amount, written as text so that no Float is on its way. -#}
toDecimal128('{{ text }}', 18)
{%- endmacro %}
