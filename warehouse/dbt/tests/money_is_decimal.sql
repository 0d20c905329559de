-- A Float cannot hold a cent. Columns of money are Decimal(38, 18), in every table of the marts.
SELECT table, name, type
FROM system.columns
WHERE database = '{{ target.schema }}'
    AND match(name, 'cost|amount|spend|budget|billed|priced$|effective|unexplained|_per_unit')
    AND name NOT IN ('cost_status', 'within_budget', 'over_budget')
    AND type NOT IN ('Decimal(38, 18)', 'Nullable(Decimal(38, 18))')
    -- depends_on: {{ ref('cost_per_token_hourly') }} {{ ref('cost_per_request_hourly') }}
    -- {{ ref('cost_by_customer') }} {{ ref('cost_by_feature') }} {{ ref('cost_by_owner') }}
    -- {{ ref('performance_per_dollar') }} {{ ref('net_cost_per_accepted_answer') }}
    -- {{ ref('commitment_utilisation') }} {{ ref('cost_slo_burn') }}
