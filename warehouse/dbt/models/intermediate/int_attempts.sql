-- The join that nobody owns: what was asked, where it went, what it ran on, what it cost, and
-- whether an invoice has come for it. One row per attempt.
{{ config(
    materialized='incremental',
    schema=none,
    incremental_strategy='insert_overwrite',
    partition_by='started_on',
    order_by=['customer', 'feature', 'model', 'backend', 'started_ns'],
    post_hook="{{ forget_days('started_on') }}",
) }}
-- depends_on: {{ ref('int_days') }}
{%- set columns = [
    'attempt_id', 'request_id', 'attempt_no', 'role', 'kind', 'endpoint', 'model',
    'backend', 'backend_kind', 'target', 'accelerator', 'region', 'artifact', 'variant',
    'binding', 'owner', 'api_key', 'customer', 'feature', 'session', 'tags', 'run_id',
    'item_id', 'streamed', 'status', 'http_status', 'error_code', 'finish_reason',
    'response_id', 'trace_id', 'span_id', 'tier', 'in_uncached', 'in_cache_read',
    'in_cache_write', 'out_visible', 'out_reasoning', 'usage_source', 'input_tokens',
    'output_tokens', 'started_at', 'started_on', 'ended_at', 'started_ns', 'first_token_ns',
    'ended_ns', 'ttft_ms', 'total_ms',
] %}
{%- set changed_costs = only_changed('k.attempt_started_on') %}

WITH
costs AS
(
    SELECT
        attempt_id,
        sum(k.amount) AS cost,
        -- Amounts of two bases or currencies have no sum: such an attempt has no cost, and a
        -- test fails.
        uniqExact(k.basis, k.currency) AS kinds,
        max(k.basis) AS basis,
        max(k.currency) AS currency,
        max(k.rule) AS rule,
        max(k.issuer) AS issuer,
        max(k.known_ns) AS known_ns
    FROM {{ ref('int_costs') }} AS k
    WHERE k.attempt_started_on = toDate('1970-01-01') OR {{ changed_costs }}
    GROUP BY attempt_id
),
-- A request begins with its first attempt, which may lie before midnight.
begun AS
(
    SELECT b.request_id AS request_id, min(b.started_ns) AS started_ns
    FROM {{ ref('stg_attempts') }} AS b
    WHERE NOT b.withdrawn
        AND b.request_id IN
        (
            SELECT t.request_id
            FROM {{ ref('stg_attempts') }} AS t
            WHERE t.attempt_no > 0 AND {{ only_changed('t.started_on') }}
        )
        AND ({{ only_changed('b.started_on') }} OR {{ only_changed('addDays(b.started_on, 1)') }})
    GROUP BY b.request_id
)
SELECT
    {% for column in columns -%}
    a.{{ column }} AS {{ column }},
    {% endfor -%}
    if(g.request_id = '', a.started_ns, least(g.started_ns, a.started_ns)) AS request_started_ns,
    if(c.issuer = '', a.issuer, c.issuer) AS issuer,
    if(c.kinds = 1, 'priced', 'unpriced') AS cost_status,
    if(c.kinds = 1, toNullable(c.cost), NULL) AS cost,
    multiIf(c.kinds = 1, CAST(c.basis AS String), c.kinds = 0, 'unpriced', 'mixed') AS basis,
    if(c.kinds = 1, CAST(c.currency AS String), '') AS currency,
    if(c.kinds = 1, CAST(c.rule AS String), '') AS rule,
    i.infra_provider AS infra_provider,
    i.infra_resource AS infra_resource,
    i.infra_accelerator AS infra_accelerator,
    i.infra_instance_type AS infra_instance_type,
    i.infra_capacity AS infra_capacity,
    i.infra_zone AS infra_zone,
    v.invoices AS invoices,
    if(v.invoices = '', 'estimated', 'invoiced') AS billing_state,
    greatest(a.ingested_ns, c.known_ns) AS known_ns
FROM {{ ref('stg_attempts') }} AS a
LEFT JOIN costs AS c ON c.attempt_id = a.attempt_id
LEFT JOIN begun AS g ON g.request_id = a.request_id
ASOF LEFT JOIN {{ ref('int_infra') }} AS i
    ON i.backend = a.backend AND i.observed_ns <= a.started_ns
LEFT JOIN {{ ref('int_invoiced') }} AS v
    ON v.issuer = if(c.issuer = '', a.issuer, c.issuer) AND v.day = a.started_on
WHERE NOT a.withdrawn AND {{ only_changed('a.started_on') }}
