-- What 1 of each currency that was billed in was worth on each day, in the currency of what was
-- priced: an exact fraction, by the rules of `fungible cost reconcile`. Of several rates for a day
-- the one that became known last counts. A rate holds for seven days unless a later one comes; a
-- pair's own rate comes before its reciprocal, and both before a way through a third currency.
WITH
{{ reporting_currency() }} AS reported,
wanted AS
(
    SELECT DISTINCT CAST(i.currency AS String) AS currency, toDate(i.period_start) AS day
    FROM {{ ref('stg_invoice_lines') }} AS i
    WHERE i.currency != reported
),
known AS
(
    SELECT
        CAST(r.base AS String) AS base,
        CAST(r.quote AS String) AS quote,
        r.day AS since,
        {{ units('argMax(r.rate, (r.known_ns, r.source))') }} AS units
    FROM {{ ref('stg_fx_rates') }} AS r
    GROUP BY base, quote, since
),
held AS
(
    SELECT k.base AS base, k.quote AS quote, k.since AS since, k.units AS units,
        arrayJoin(arrayMap(n -> addDays(k.since, n), range(8))) AS day
    FROM known AS k
),
newest AS
(
    SELECT h.base AS base, h.quote AS quote, h.day AS day, argMax(h.units, h.since) AS units
    FROM held AS h
    WHERE h.day IN (SELECT w.day FROM wanted AS w)
    GROUP BY base, quote, day
),
legs AS
(
    SELECT b.day AS day, b.have AS have, b.want AS want, b.units AS units, b.inverse AS inverse
    FROM
    (
        SELECT n.day AS day, n.base AS have, n.quote AS want, n.units AS units, 0 AS inverse
        FROM newest AS n
        UNION ALL
        SELECT m.day, m.quote, m.base, m.units, 1
        FROM newest AS m
    ) AS b
    ORDER BY b.inverse
    LIMIT 1 BY b.day, b.have, b.want
),
ways AS
(
    SELECT
        w.day AS day,
        w.currency AS currency,
        0 AS detour,
        '' AS through,
        if(l.inverse, {{ one_in_units() }}, l.units) AS numerator,
        if(l.inverse, l.units, {{ one_in_units() }}) AS denominator
    FROM wanted AS w
    INNER JOIN legs AS l ON l.day = w.day AND l.have = w.currency
    WHERE l.want = reported

    UNION ALL

    SELECT
        v.day AS day,
        v.currency AS currency,
        if(f.want IN ('EUR', 'USD'), 1, 2) AS detour,
        f.want AS through,
        multiIf(
            NOT f.inverse AND NOT s.inverse, f.units * s.units,
            f.inverse AND s.inverse, {{ one_in_units() }} * {{ one_in_units() }},
            f.inverse, s.units,
            f.units
        ) AS numerator,
        multiIf(
            NOT f.inverse AND NOT s.inverse, {{ one_in_units() }} * {{ one_in_units() }},
            f.inverse AND s.inverse, f.units * s.units,
            f.inverse, f.units,
            s.units
        ) AS denominator
    FROM wanted AS v
    INNER JOIN legs AS f ON f.day = v.day AND f.have = v.currency
    INNER JOIN legs AS s ON s.day = f.day AND s.have = f.want
    WHERE s.want = reported AND f.want NOT IN (reported, v.currency)
)
SELECT x.day AS day, x.currency AS currency, reported, x.numerator AS numerator,
    x.denominator AS denominator
FROM ways AS x
ORDER BY x.detour, x.through
LIMIT 1 BY x.day, x.currency
