"""What a gateway process counts, as families of Prometheus' text format.

Nothing is gathered until somebody asks. Labels name models, backends and endpoints, which the
configuration bounds; never keys, customers, features, or what a client sent.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from fungible.contract.exposition import Histogram, labelled, number
from fungible.ledger.room import held_bytes
from fungible.routing.dispatch import Dispatcher

_STATES = ("closed", "resting", "open", "half_open")
# The conventions' own names of operations.
_OPERATIONS = {
    "chat/completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric with its samples, each a line of the text format."""

    name: str
    kind: str
    help: str
    samples: list[str]


class Meter:
    """Counts answers of one process, and tells what it and its dispatcher counted.

    Args:
        worker: Name of the process, a label of every sample.
    """

    def __init__(self, worker: str, dispatcher: Dispatcher) -> None:
        self._common = labelled(worker=worker)
        self._dispatcher = dispatcher
        self.requests: Counter[tuple[str, int]] = Counter()

    def families(self, route_version: int) -> list[Family]:
        """Everything, as of now."""
        spool = self._dispatcher.spool
        return [
            *self._counted(),
            *self._of_places(),
            self._family(
                "fungible_shadows_dropped_total",
                "Copies that were not sent because there was no room.",
                [("", self._dispatcher.shadows_dropped)],
            ),
            self._family(
                "fungible_rows_lost_total",
                "Attempts that were made and could not be recorded.",
                [("", self._dispatcher.rows_lost)],
            ),
            self._family(
                "fungible_rows_refused",
                "1 while requests are refused because rows cannot be written.",
                [("", self._dispatcher.refusing)],
            ),
            self._family(
                "fungible_spool_writable",
                "0 while rows cannot be written.",
                [("", not spool.full)],
            ),
            self._family(
                "fungible_route_version", "Of the route table in force.", [("", route_version)]
            ),
        ]

    def _counted(self) -> list[Family]:
        tally = self._dispatcher.tally
        return [
            self._family(
                "fungible_requests_total",
                "Requests by endpoint and HTTP status; 0 where the client left before its answer.",
                (
                    (labelled(endpoint=endpoint, code=code), count)
                    for (endpoint, code), count in self.requests.items()
                ),
            ),
            self._family(
                "fungible_attempts_total",
                "Calls to backends by how they ended.",
                ((labelled(**key._asdict()), count) for key, count in tally.attempts.items()),
            ),
            self._family(
                "fungible_tokens_total",
                "Tokens that backends reported, or that were counted, by leaf.",
                (
                    (labelled(model=model, backend=backend, leaf=leaf), count)
                    for (model, backend, leaf), count in tally.tokens.items()
                ),
            ),
            self._histograms(tally.first_token),
            self._histograms(tally.duration),
        ]

    def _of_places(self) -> list[Family]:
        places = [
            (labelled(backend=name), place) for name, place in self._dispatcher.places.items()
        ]
        return [
            self._family(
                "fungible_attempts_in_flight",
                "Calls under way.",
                ((labels, place.slots.held) for labels, place in places),
            ),
            self._family(
                "fungible_attempts_waiting",
                "Calls that wait for a slot.",
                ((labels, place.slots.waiting) for labels, place in places),
            ),
            self._family(
                "fungible_queue_refused_total",
                "Calls that were sent away from a full queue or waited too long in it.",
                ((labels, place.slots.refused) for labels, place in places),
            ),
            self._family(
                "fungible_breaker_state",
                "1 for the state that a backend's circuit breaker is in.",
                (
                    (f"{labels},{labelled(state=state)}", place.breaker.state == state)
                    for labels, place in places
                    for state in _STATES
                ),
            ),
            self._family(
                "fungible_breaker_trips_total",
                "How often a backend's circuit breaker opened.",
                ((labels, place.breaker.trips) for labels, place in places),
            ),
        ]

    def _family(self, name: str, about: str, samples: Iterable[tuple[str, float]]) -> Family:
        """Samples by the labels that they have beside the worker's."""
        lines = [
            f"{name}{{{self._common}{',' if labels else ''}{labels}}} {number(value)}"
            for labels, value in samples
        ]
        kind = "counter" if name.endswith("_total") else "gauge"
        return Family(name=name, kind=kind, help=about, samples=lines)

    def _histograms(self, found: dict[tuple[str, str, str], Histogram]) -> Family:
        lines: list[str] = []
        name = about = ""
        for (model, backend, endpoint), histogram in found.items():
            name, about = histogram.name, histogram.help
            labels = labelled(
                gen_ai_operation_name=_OPERATIONS.get(endpoint, endpoint),
                gen_ai_request_model=model,
                endpoint=endpoint,
                backend=backend,
            )
            lines += histogram.samples(f"{self._common},{labels}")
        return Family(name=name, kind="histogram", help=about, samples=lines)


def spool_waiting(dispatcher: Dispatcher) -> Family:
    """Bytes of all writers of this home that wait to be shipped."""
    return Family(
        name="fungible_spool_bytes",
        kind="gauge",
        help="Rows of all processes of this home that wait to be shipped.",
        samples=[f"fungible_spool_bytes {held_bytes(dispatcher.spool.folder.parent)}"],
    )


def page(families: Iterable[Family]) -> bytes:
    """Families of several processes as one page: each name once, with all of its samples."""
    merged: dict[str, list[Family]] = {}
    for family in families:
        if family.samples:
            merged.setdefault(family.name, []).append(family)
    lines: list[str] = []
    for name, several in merged.items():
        lines += [f"# HELP {name} {several[0].help}", f"# TYPE {name} {several[0].kind}"]
        for one in several:
            lines += one.samples
    return "\n".join([*lines, ""]).encode()
