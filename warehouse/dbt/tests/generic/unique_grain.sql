{% test unique_grain(model, columns) %}
-- A row twice would be money twice.
SELECT {{ columns | join(', ') }}, count() AS rows_of_it
FROM {{ model }}
GROUP BY {{ columns | join(', ') }}
HAVING rows_of_it > 1
{% endtest %}
