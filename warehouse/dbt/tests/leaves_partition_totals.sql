-- Usage leaves are mutually exclusive and make the totals. A token that is in two leaves is
-- paid twice; one that is in none is free. Attempts of which a leaf is unknown have no total:
-- what is known of them is counted apart.
SELECT *
FROM {{ ref('cost_per_token_hourly') }}
WHERE in_uncached + in_cache_read + in_cache_write != input_tokens + input_in_part
    OR out_visible + out_reasoning != output_tokens + output_in_part
    OR priced_tokens > input_tokens + output_tokens
