"""Where a call went: what infrastructure said about its server at that time.

Clocks differ and snapshots are taken now and then, so of each machine the latest observation
that is not after the call counts, or else the first one after it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fungible.ledger.joining import Place
from fungible.ledger.store import EVERYTHING, Store

_COLUMNS = (
    "provider, resource, observed_ns, digest, kind, parent, backend, accelerator, region, labels,"
    " started_ns, ended_ns"
)
_HOPS = 4  # pod -> node -> instance, and one to spare
# The label that names a machine's target, as `target` in fungible.toml does.
TARGET_LABEL = "fungible.dev/target"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One observation of a machine, pod or deployment."""

    provider: str
    resource: str
    observed_ns: int
    digest: str
    kind: str
    parent: str
    backend: str
    accelerator: str
    region: str
    labels: dict[str, str]
    started_ns: int
    ended_ns: int


class Whereabouts:
    """Observations that matter for some calls, by address and by resource."""

    def __init__(self) -> None:
        self._by_address: dict[str, list[Seen]] = defaultdict(list)
        self._by_resource: dict[str, list[Seen]] = defaultdict(list)

    def add(self, seen: Seen, address: str = "") -> None:
        """One observation; under an address, or under its own name."""
        if address:
            self._by_address[address.lower()].append(seen)
        else:
            self._by_resource[seen.resource].append(seen)

    def locate(self, resource: str, server: str, at_ns: int) -> Place:
        """What is known about a call that ended at `at_ns`; an empty place when nothing is."""
        candidates = self._by_resource.get(resource, []) if resource else []
        for address in addresses_of(server):
            candidates = candidates or self._by_address.get(address, [])
        here = _choose(candidates, at_ns)
        place = Place()
        for _ in range(_HOPS):
            if here is None:
                break
            place = Place(
                backend=place.backend or here.backend,
                accelerator=place.accelerator or here.accelerator,
                region=place.region or here.region,
                target=place.target or here.labels.get(TARGET_LABEL, ""),
            )
            here = _choose(self._by_resource.get(here.parent, []), at_ns) if here.parent else None
        return place


def addresses_of(server: str) -> list[str]:
    """How infrastructure may call a server: with its port, and without."""
    if not server:
        return []
    host, colon, port = server.lower().rpartition(":")
    if colon and port.isdigit():
        return [server.lower(), host.strip("[]")]
    return [server.lower()]


def load_whereabouts(
    store: Store, resources: Iterable[str], servers: Iterable[str], span: tuple[int, int]
) -> Whereabouts:
    """What the ledger knows of these resources and servers for calls in a span of time.

    Args:
        store: The ledger.
        resources: As the facts name them.
        servers: Hosts, with or without a port.
        span: First and last ns of the calls.
    """
    found = Whereabouts()
    addresses = sorted({name for server in servers for name in addresses_of(server)})
    parents: set[str] = set()
    for *cells, address in _observed(store, "address", addresses, span):
        seen = _seen(cells)
        found.add(seen, address)
        parents.add(seen.parent)
    wanted = ({name for name in resources if name} | parents) - {""}
    known: set[str] = set()
    for _ in range(_HOPS):
        if not wanted:
            break
        known |= wanted
        parents = set()
        for *cells, _name in _observed(store, "resource", sorted(wanted), span):
            seen = _seen(cells)
            found.add(seen)
            parents.add(seen.parent)
        wanted = parents - known - {""}
    return found


def _observed(
    store: Store, by: str, names: Sequence[str], span: tuple[int, int]
) -> list[tuple[Any, ...]]:
    """Observations in a span of time, the last before it and the first after it, by name."""
    if not names:
        return []
    column = "lower(address)" if by == "address" else "resource"
    source = "infra ARRAY JOIN addresses AS address" if by == "address" else "infra"
    has = f"has({{names:Array(String)}}, {column})"
    base = f"SELECT {_COLUMNS}, {column} AS name FROM {source} WHERE {has}"  # noqa: S608
    per = "LIMIT 1 BY provider, resource, name"
    rows = store.query(
        f"{base} AND observed_ns >= {{first:Int64}} AND observed_ns <= {{last:Int64}}"  # noqa: S608
        f" UNION ALL SELECT * FROM ({base} AND observed_ns < {{first:Int64}}"
        f" ORDER BY observed_ns DESC, digest DESC {per})"
        f" UNION ALL SELECT * FROM ({base} AND observed_ns > {{last:Int64}}"
        f" ORDER BY observed_ns, digest DESC {per})",
        {"names": list(names), "first": span[0], "last": span[1]},
        max_rows=EVERYTHING,
    )
    return rows.rows


def _seen(cells: Sequence[Any]) -> Seen:
    return Seen(**dict(zip(Seen.__struct_fields__, cells, strict=True)))


def _choose(candidates: Sequence[Seen], at_ns: int) -> Seen | None:
    """Of each machine the observation that holds; of several, the one that lived then."""
    machines: dict[tuple[str, str], Seen] = {}
    for seen in candidates:
        name = (seen.provider, seen.resource)
        if name not in machines or _closeness(seen, at_ns) > _closeness(machines[name], at_ns):
            machines[name] = seen

    def worth(seen: Seen) -> tuple[bool, bool, int, str, str]:
        since = seen.started_ns or seen.observed_ns
        gone = 0 < seen.ended_ns <= at_ns
        begun = since <= at_ns
        return not gone, begun, since if begun else -since, seen.provider, seen.resource

    return max(machines.values(), key=worth, default=None)


def _closeness(seen: Seen, at_ns: int) -> tuple[bool, int, str]:
    before = seen.observed_ns <= at_ns
    return before, seen.observed_ns if before else -seen.observed_ns, seen.digest
