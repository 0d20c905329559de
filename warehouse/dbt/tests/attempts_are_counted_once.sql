-- Every attempt is in each breakdown once, whether or not it has a price.
WITH (SELECT count() FROM {{ ref('int_attempts') }}) AS attempts
SELECT * FROM
(
    {% for mart in [
        'cost_per_token_hourly', 'cost_per_request_hourly', 'cost_by_feature', 'cost_by_customer',
        'cost_by_owner', 'performance_per_dollar',
    ] -%}
    SELECT '{{ mart }}' AS mart, sum(attempts) AS counted FROM {{ ref(mart) }}
    {% if not loop.last %}UNION ALL{% endif %}
    {% endfor %}
)
WHERE counted != attempts
