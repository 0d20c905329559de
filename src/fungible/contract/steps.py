"""What a self-hosted engine did, for sharing its cost: its steps, or weights of token classes."""

import msgspec

# No step is longer, so what touches a moment is found without looking at all before it.
LONGEST_STEP_NS = 3600 * 1_000_000_000


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One engine step. `requests` are places in the batch's `ids`; the lists after it are parallel.

    Attributes:
        step: The engine's own count.
        start_ns: Nanoseconds since the Unix epoch.
        duration_ns: How long it took.
        requests: Whom it served, as places in `StepsEvent.ids`.
        prefill: Prompt tokens run, per request.
        decode: Tokens decoded, per request.
        kv: Tokens that attention read, per request.
    """

    step: int
    start_ns: int
    duration_ns: int
    requests: list[int]
    prefill: list[int]
    decode: list[int]
    kv: list[int]


class StepsEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="steps"):
    """Many steps of one run of one engine: steps are frequent, records are not.

    The ledger keeps a row a step, once, by (backend, start, run, step).

    Attributes:
        run: One life of one engine process; it has one build, so its steps cost alike.
        ids: The requests' identifiers at the engine: our attempts', `-N` after it for the
            answer's index where a request has several.
    """

    backend: str
    run: str
    ids: list[str]
    steps: list[Step]


class ClassWeightsEvent(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="class_weights"
):
    """What a token of each class costs an engine, in 10^-15 accelerator-seconds; the newest holds.

    Attributes:
        source: What they were measured from.
        r2: How well they explain it, 0 to 1.
        samples: Intervals behind the fit.
    """

    backend: str
    in_uncached: int
    in_cache_read: int
    out: int
    source: str
    r2: float
    samples: int
    at_ns: int
