"""The five questions of a dashboard over 30 days, in our words and in the peer's."""

# name -> (from rollups, from attempts and lines one by one, in the peer's table)
NAMES = (
    "cost by customer",
    "cost per 1M tokens",
    "latency percentiles",
    "hourly cost, 7 days",
    "one customer, by day",
)
AGGREGATE = NAMES[:4]

ROLLED = {
    NAMES[0]: """SELECT customer, sum(r.amount) AS spent FROM customer_days AS r
WHERE day >= toDate({from_s:Int64}) GROUP BY customer ORDER BY spent DESC, customer LIMIT 50""",
    NAMES[1]: """SELECT feature, backend, sum(r.amount) * 1000000 / sum(r.priced_tokens) AS rate
FROM usage_hours AS r WHERE hour >= toDateTime({from_s:Int64}, 'UTC')
GROUP BY feature, backend ORDER BY feature, backend""",
    NAMES[2]: """SELECT model, backend, quantilesTDigestIfMerge(0.5, 0.95, 0.99)(ttft),
    quantilesTDigestIfMerge(0.5, 0.95, 0.99)(duration)
FROM backend_minutes AS r WHERE minute >= toDateTime({from_s:Int64}, 'UTC') AND r.attempts > 0
GROUP BY model, backend ORDER BY model, backend""",
    NAMES[3]: """SELECT hour, backend, sum(r.amount) FROM usage_hours AS r
WHERE hour >= toDateTime({week_s:Int64}, 'UTC') GROUP BY hour, backend ORDER BY hour, backend""",
    NAMES[4]: """SELECT day, feature, sum(r.attempts), sum(r.amount) FROM customer_days AS r
WHERE customer = {customer:String} AND day >= toDate({from_s:Int64})
GROUP BY day, feature ORDER BY day, feature""",
}
RAW = {
    NAMES[0]: """SELECT customer, sum(l.delta) AS spent FROM cost_lines AS l
WHERE at_ns >= {from_s:Int64} * 1000000000
GROUP BY customer ORDER BY spent DESC, customer LIMIT 50""",
    NAMES[1]: """SELECT feature, backend, sum(l.delta) * 1000000 / sum(l.priced * l.tokens)
FROM cost_lines AS l WHERE at_ns >= {from_s:Int64} * 1000000000
GROUP BY feature, backend ORDER BY feature, backend""",
    NAMES[2]: """SELECT model, backend,
    quantilesTDigest(0.5, 0.95, 0.99)((assumeNotNull(first_token_ns) - started_ns) / 1e6),
    quantilesTDigest(0.5, 0.95, 0.99)((ended_ns - started_ns) / 1e6)
FROM attempt_events WHERE started_ns >= {from_s:Int64} * 1000000000
GROUP BY model, backend ORDER BY model, backend""",
    NAMES[3]: """SELECT toStartOfHour(fromUnixTimestamp64Nano(at_ns, 'UTC')) AS hour, backend,
    sum(l.delta) FROM cost_lines AS l WHERE at_ns >= {week_s:Int64} * 1000000000
GROUP BY hour, backend ORDER BY hour, backend""",
    NAMES[4]: """SELECT toDate(fromUnixTimestamp64Nano(started_ns, 'UTC')) AS day, feature,
    count(), sum(cost) FROM attempts
WHERE customer = {customer:String} AND started_ns >= {from_s:Int64} * 1000000000
GROUP BY day, feature ORDER BY day, feature""",
}
PEER = {
    NAMES[0]: """SELECT end_user, sum(spend) AS spent FROM "LiteLLM_SpendLogs"
WHERE "startTime" >= to_timestamp({from_s}) AT TIME ZONE 'UTC'
GROUP BY end_user ORDER BY spent DESC, end_user LIMIT 50""",
    NAMES[1]: """SELECT request_tags->>0 AS feature, api_base,
    sum(spend) * 1000000 / sum(total_tokens) FROM "LiteLLM_SpendLogs"
WHERE "startTime" >= to_timestamp({from_s}) AT TIME ZONE 'UTC'
GROUP BY feature, api_base ORDER BY feature, api_base""",
    NAMES[2]: """SELECT model, api_base,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP
        (ORDER BY extract(epoch FROM "completionStartTime" - "startTime")),
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP
        (ORDER BY extract(epoch FROM "endTime" - "startTime"))
FROM "LiteLLM_SpendLogs" WHERE "startTime" >= to_timestamp({from_s}) AT TIME ZONE 'UTC'
GROUP BY model, api_base ORDER BY model, api_base""",
    NAMES[3]: """SELECT date_trunc('hour', "startTime") AS hour, api_base, sum(spend)
FROM "LiteLLM_SpendLogs" WHERE "startTime" >= to_timestamp({week_s}) AT TIME ZONE 'UTC'
GROUP BY hour, api_base ORDER BY hour, api_base""",
    NAMES[4]: """SELECT date_trunc('day', "startTime") AS day, request_tags->>0 AS feature,
    count(*), sum(spend) FROM "LiteLLM_SpendLogs"
WHERE end_user = '{customer}' AND "startTime" >= to_timestamp({from_s}) AT TIME ZONE 'UTC'
GROUP BY day, feature ORDER BY day, feature""",
}
