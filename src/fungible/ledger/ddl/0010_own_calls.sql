-- Facts from elsewhere about calls of our own gateway: they are attempts already, so none is made
-- of them. A row for each, with the attempt that it is about; read it with FINAL.
CREATE TABLE IF NOT EXISTS own_call_facts
(
    stream LowCardinality(String),
    digest String,
    response_id String,
    trace_id String,
    span_id String,
    source String,
    attempt_id String,
    at_ns Int64
)
ENGINE = ReplacingMergeTree(at_ns)
ORDER BY (stream, digest, response_id, trace_id, span_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- What an attempt is known by, besides its own ids.
ALTER TABLE attempt_events
    ADD INDEX IF NOT EXISTS response_idx response_id TYPE bloom_filter GRANULARITY 1;
ALTER TABLE attempt_events
    ADD INDEX IF NOT EXISTS trace_idx trace_id TYPE bloom_filter GRANULARITY 1;

-- Attempts that came later than facts about them are looked for, too: until these moments. Those
-- from before this step have no response or trace id, and need not be looked at again.
ALTER TABLE stitch_runs ADD COLUMN IF NOT EXISTS attempts_ns Int64 DEFAULT at_ns;
