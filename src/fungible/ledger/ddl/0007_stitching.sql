-- How far facts were put together into attempts: everything that was ingested until these moments.
CREATE TABLE IF NOT EXISTS stitch_runs
(
    at_ns Int64,
    facts_ns Int64,
    infra_ns Int64
)
ENGINE = ReplacingMergeTree(at_ns)
ORDER BY tuple();
