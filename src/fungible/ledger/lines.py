"""Cost and idle lines: read the newest one of each, append those that say something new."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from fungible.ledger.costing import amount_of, units_of
from fungible.ledger.store import EVERYTHING, Store

# attempt, lease (empty for tokens), start of the window (of the attempt for tokens)
CostKey = tuple[str, str, int]
# lease, start of the window
IdleKey = tuple[str, int]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the cost of one thing, in units of 10^-18; withdrawn: no price."""

    backend: str
    units: int = 0
    currency: str = ""
    basis: str = ""
    source: str = ""
    end_ns: int = 0
    withdrawn: bool = False

    def says(self) -> tuple[object, ...]:
        """What makes two lines different; where the price was written down does not."""
        if self.withdrawn:
            return ()
        return (self.units, self.currency, self.basis, self.end_ns)


def known_costs(store: Store, lease_id: str, start_ns: int, end_ns: int) -> dict[CostKey, Line]:
    """The newest cost lines of windows that begin in `[start_ns, end_ns)`."""
    rows = store.query(
        f"SELECT attempt_id, lease_id, window_start_ns, {_NEWEST}, 0 FROM cost_lines"  # noqa: S608
        f" WHERE {_RANGE} GROUP BY lease_id, window_start_ns, attempt_id",
        {"lease": lease_id, "start": start_ns, "end": end_ns},
        max_rows=EVERYTHING,
    )
    return {(row[0], row[1], row[2]): _line(row[3:]) for row in rows.rows}


def known_idle(store: Store, lease_id: str, start_ns: int, end_ns: int) -> dict[IdleKey, Line]:
    """The newest idle lines of windows that begin in `[start_ns, end_ns)`."""
    rows = store.query(
        "SELECT lease_id, window_start_ns,"  # noqa: S608
        f" {_NEWEST}, argMax(window_end_ns, known_ns) FROM idle_lines"
        f" WHERE {_RANGE} GROUP BY lease_id, window_start_ns",
        {"lease": lease_id, "start": start_ns, "end": end_ns},
        max_rows=EVERYTHING,
    )
    return {(row[0], row[1]): _line(row[2:]) for row in rows.rows}


def append_costs(
    store: Store, lines: Mapping[CostKey, Line], known: Mapping[CostKey, Line], now_ns: int
) -> int:
    """Append what differs from `known`, withdraw what is no longer there; lines appended."""
    rows = []
    for (attempt_id, lease_id, start), line in _changes(lines, known).items():
        keys = {"attempt_id": attempt_id, "lease_id": lease_id, "window_start_ns": start}
        rows.append(keys | _cells(line, now_ns))
    store.insert_rows("cost_lines", rows)
    return len(rows)


def append_idle(
    store: Store, lines: Mapping[IdleKey, Line], known: Mapping[IdleKey, Line], now_ns: int
) -> int:
    """The same for idle lines."""
    rows = []
    for (lease_id, start), line in _changes(lines, known).items():
        keys = {"lease_id": lease_id, "window_start_ns": start, "window_end_ns": line.end_ns}
        rows.append(keys | _cells(line, now_ns))
    store.insert_rows("idle_lines", rows)
    return len(rows)


def _changes(lines: Mapping[Any, Line], known: Mapping[Any, Line]) -> dict[Any, Line]:
    gone = {
        key: msgspec.structs.replace(line, withdrawn=True)
        for key, line in known.items()
        if key not in lines and not line.withdrawn
    }
    new = {
        key: line
        for key, line in lines.items()
        if key not in known or line.says() != known[key].says()
    }
    return gone | new


def _cells(line: Line, now_ns: int) -> dict[str, object]:
    return {
        "backend": line.backend,
        "amount": f"{amount_of(line.units):f}",
        "currency": line.currency,
        "basis": line.basis,
        "price_source": line.source,
        "withdrawn": line.withdrawn,
        "known_ns": now_ns,
    }


_COLUMNS = ("backend", "amount", "currency", "basis", "price_source", "withdrawn")
_NEWEST = ", ".join(f"argMax({name}, known_ns)" for name in _COLUMNS)
_RANGE = (
    "lease_id = {lease:String}"
    " AND window_start_ns >= {start:Int64} AND window_start_ns < {end:Int64}"
)


def _line(cells: tuple[Any, ...]) -> Line:
    backend, amount, currency, basis, source, withdrawn, end = cells
    return Line(
        backend=backend,
        units=units_of(Decimal(amount)),
        currency=currency,
        basis=basis,
        source=source,
        end_ns=end,
        withdrawn=bool(withdrawn),
    )
