-- What a backend ran on, from each moment at which somebody looked. Where its machines were of
-- several kinds at that moment, `(several)` says so.
SELECT
    backend,
    observed_ns,
    uniqExact(provider, resource) AS resources,
    {% for column in ['provider', 'resource', 'accelerator', 'instance_type', 'capacity', 'zone'] -%}
    if(uniqExact(i.{{ column }}) = 1, any(CAST(i.{{ column }} AS String)), '(several)') AS infra_{{ column }}
    {{- "," if not loop.last }}
    {% endfor %}
FROM {{ ref('stg_infra') }} AS i
WHERE backend != ''
GROUP BY backend, observed_ns
