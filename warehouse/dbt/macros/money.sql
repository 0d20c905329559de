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

{% macro one_in_units() -%}
{#- 1 in units of 10^-18, in which amounts and rates are whole numbers. -#}
toUInt256('1000000000000000000')
{%- endmacro %}

{% macro units(amount) -%}
{#- The size of an amount or a rate, in units of 10^-18. -#}
toUInt256(abs(CAST({{ amount }} AS Decimal(76, 18))) * toDecimal256('1000000000000000000', 0))
{%- endmacro %}

{% macro converted(amount, numerator, denominator) -%}
{#- amount × numerator / denominator in whole numbers, rounded half to even at the 18th decimal. -#}
{%- set product = '(' ~ units(amount) ~ ' * ' ~ numerator ~ ')' -%}
{%- set whole = 'intDiv(' ~ product ~ ', ' ~ denominator ~ ')' -%}
{%- set rest = '(' ~ product ~ ' - ' ~ whole ~ ' * ' ~ denominator ~ ')' -%}
CAST(divideDecimal(
    toDecimal256(
        {{ whole }}
        + toUInt256(2 * {{ rest }} > {{ denominator }}
            OR (2 * {{ rest }} = {{ denominator }} AND {{ whole }} % 2 = 1))
        + toUInt256(throwIf(
            toFloat64(abs({{ amount }})) * toFloat64({{ numerator }}) > 1e58, 'an amount is too large to convert'
        )),
        0
    ),
    toDecimal256('1000000000000000000', 0) * if({{ amount }} < 0, -1, 1),
    18
) AS Decimal(38, 18))
{%- endmacro %}

{% macro reporting_currency() -%}
{#- What amounts are reported in: the variable `currency`, which `fungible warehouse build` fills in
    from the price book; else that of the newest price; else that of the first invoice. -#}
{%- if var('currency') -%}
'{{ var('currency') | replace("'", "''") }}'
{%- else -%}
(
    SELECT ifNull(nullIf(argMax(c.currency, (c.priced, c.known_ns)), ''), '')
    FROM
    (
        SELECT CAST(p.currency AS String) AS currency, 1 AS priced, p.known_ns AS known_ns
        FROM {{ ref('int_priced') }} AS p
        UNION ALL
        SELECT * FROM
        (
            SELECT CAST(i.currency AS String) AS currency, 0 AS priced, toInt64(0) AS known_ns
            FROM {{ ref('stg_invoice_lines') }} AS i
            ORDER BY i.issuer, i.sku, i.start_ns, i.end_ns, i.category, i.currency
            LIMIT 1
        )
    ) AS c
)
{%- endif -%}
{%- endmacro %}
