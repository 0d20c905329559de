{% test no_silent_zero(model) %}
-- Unknown is never zero: attempts without a price have no amount, and those with one have one.
SELECT *
FROM {{ model }}
WHERE (basis IN ('unpriced', 'mixed')) != (cost IS NULL)
    OR (basis IN ('unpriced', 'mixed')) != (unpriced_attempts > 0)
    OR (unpriced_attempts > 0 AND unpriced_attempts != attempts)
    OR (currency = '') != (cost IS NULL)
{% endtest %}
