"""Numbers from the requests of one run; times in seconds unless the name says ms."""

import math
from collections.abc import Sequence

import msgspec

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
BEYOND = 5


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the client saw it, on the run's clock.

    Attributes:
        due: When the trace wanted it sent. Latencies count from here, so that a client that
            falls behind cannot hide the wait (no coordinated omission).
        sent: When it was sent.
        first: First content, `None` if none came.
        last: Last content.
        error: Why it failed, or empty.
    """

    item_id: str
    due: float
    sent: float
    first: float | None = None
    last: float | None = None
    ended: float
    input_tokens: int = 0
    output_tokens: int = 0
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether content came and the stream ended as it should; `first` and `last` are set."""
        return not self.error


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run comes to. Percentiles are nearest-rank, over requests that succeeded.

    Attributes:
        supported_percentile: Highest of the usual percentiles with at least five requests
            beyond it; a p99 of 40 requests is their maximum, no more.
        itl_p50_ms: Time between tokens after the first, per request.
        tokens_per_s: Output tokens per second of wall time, all requests together.
    """

    requests: int
    failed: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    supported_percentile: float
    input_tokens: int
    output_tokens: int
    tokens_per_s: float
    total_tokens_per_s: float
    wall_s: float
    send_lag_p99_ms: float


def summarise(timings: Sequence[Timing]) -> Summary:
    """The summary of a run; without a single success its latencies are 0."""
    good = [timing for timing in timings if timing.ok]
    ttft = [(timing.first or 0.0) - timing.due for timing in good]
    gaps = [
        ((timing.last or 0.0) - (timing.first or 0.0)) / (timing.output_tokens - 1)
        for timing in good
        if timing.output_tokens > 1
    ]
    began = min((timing.due for timing in timings), default=0.0)
    wall = max((timing.ended for timing in timings), default=0.0) - began
    into = sum(timing.input_tokens for timing in good)
    out = sum(timing.output_tokens for timing in good)
    return Summary(
        requests=len(timings),
        failed=len(timings) - len(good),
        ttft_p50_ms=1000 * percentile(ttft, 50),
        ttft_p99_ms=1000 * percentile(ttft, 99),
        itl_p50_ms=1000 * percentile(gaps, 50),
        itl_p99_ms=1000 * percentile(gaps, 99),
        supported_percentile=supported_percentile(len(good)),
        input_tokens=into,
        output_tokens=out,
        tokens_per_s=out / wall if wall > 0 else 0.0,
        total_tokens_per_s=(into + out) / wall if wall > 0 else 0.0,
        wall_s=wall,
        send_lag_p99_ms=1000 * percentile([timing.sent - timing.due for timing in timings], 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: a value that occurred. 0 when there is none."""
    if not values:
        return 0.0
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def supported_percentile(count: int) -> float:
    """Highest of `PERCENTILES` that leaves at least `BEYOND` of `count` values above it; or 0."""
    kept = [p for p in PERCENTILES if count - math.ceil(p / 100 * count) >= BEYOND]
    return max(kept, default=0.0)
