-- At any moment one price holds for a key, leaf, tier, region and length of prompt: of two, the
-- cost of a token would depend on which was read first. Of each sheet its newest import counts.
SELECT *
FROM
(
    SELECT
        p.*,
        lagInFrame(p.valid_to_ns, 1, -1) OVER (
            PARTITION BY p.sheet, p.price_key, p.unit, p.leaf, p.basis, p.issuer, p.sku, p.tier,
                p.region, p.context_from, p.context_to
            ORDER BY p.valid_from_ns
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS before_until_ns
    FROM {{ ref('stg_price_rows') }} AS p
    WHERE (p.sheet, p.known_ns) IN (
        SELECT sheet, max(known_ns) FROM {{ ref('stg_price_rows') }} GROUP BY sheet
    )
)
WHERE before_until_ns > valid_from_ns OR valid_to_ns <= valid_from_ns
