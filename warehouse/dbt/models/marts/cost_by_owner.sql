{{ config(
    materialized='incremental',
    incremental_strategy='insert_overwrite',
    partition_by='day',
    order_by=['day', 'owner', 'kind', 'basis', 'currency'],
    post_hook="{{ forget_days('day') }}",
) }}
-- depends_on: {{ ref('int_days') }}

{{ cost_by('owner') }}
