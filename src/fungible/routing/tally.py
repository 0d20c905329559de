"""Counts attempts as their rows are written; a metrics page reads them when it is asked for."""

from collections import Counter, defaultdict
from functools import partial
from typing import NamedTuple

from fungible.contract.events import AttemptEvent
from fungible.contract.exposition import Histogram
from fungible.ledger.prices import LEAVES

# The advised bounds of the OpenTelemetry conventions for generative AI (`gen_ai.server.*`).
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
DURATION_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip


class Which(NamedTuple):
    """What attempts are told apart by. Nothing of it says whom an attempt was for."""

    model: str
    backend: str
    endpoint: str
    kind: str
    role: str
    status: str


class Tally:
    """Attempts of one process since it started.

    Attributes:
        attempts: By what they are told apart by.
        tokens: By model, backend and leaf; attempts without counts add nothing.
        first_token: Seconds to the first token of streams, by model, backend and endpoint.
        duration: Seconds of answers that came to their end, likewise.
    """

    def __init__(self) -> None:
        self.attempts: Counter[Which] = Counter()
        self.tokens: Counter[tuple[str, str, str]] = Counter()
        self.first_token = _histograms(
            "gen_ai_server_time_to_first_token_seconds",
            "From the attempt's start to its first token.",
            FIRST_TOKEN_S,
        )
        self.duration = _histograms(
            "gen_ai_server_request_duration_seconds",
            "From the attempt's start to its last byte.",
            DURATION_S,
        )

    def note(self, row: AttemptEvent) -> None:
        """One more attempt."""
        model, backend, endpoint = of = (row.model, row.backend, row.endpoint)
        self.attempts[Which(model, backend, endpoint, row.kind, row.role, row.status)] += 1
        if row.out_visible is not None:
            self._add(model, backend, row)
        if row.kind != "serve":
            return
        if row.first_token_ns is not None:
            self.first_token[of].observe((row.first_token_ns - row.started_ns) / 1e9)
        if row.status == "ok":
            self.duration[of].observe((row.ended_ns - row.started_ns) / 1e9)

    def _add(self, model: str, backend: str, row: AttemptEvent) -> None:
        tokens = self.tokens
        for leaf in LEAVES:
            if count := getattr(row, leaf):
                tokens[model, backend, leaf] += count


def _histograms(
    name: str, help_text: str, bounds: tuple[float, ...]
) -> defaultdict[tuple[str, str, str], Histogram]:
    """One for each model, backend and endpoint that something is observed of."""
    return defaultdict(partial(Histogram, name, help_text, bounds))
