"""Cost and idle lines: read the newest one of each, append those that say something new."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from fungible.ledger.costing import amount_of, units_of
from fungible.ledger.priced import note_priced
from fungible.ledger.store import EVERYTHING, Store

# attempt, lease (empty for tokens), start of the window (of the attempt for tokens)
CostKey = tuple[str, str, int]
# lease, start of the window, class, owner
IdleKey = tuple[str, int, str, str]


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """What a cost is summed by: the attempt's start, its dimensions and its tokens."""

    at_ns: int = 0
    kind: str = ""
    model: str = ""
    feature: str = ""
    customer: str = ""
    owner: str = ""
    tokens: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the cost of one thing, in units of 10^-18; withdrawn: no price.

    Attributes:
        rule: How the amount came about: `tokens`, or how time was shared.
        fit: By which fits of step costs, as run/samples.
        issuer: Who bills it, as the price says.
        parts: The amount by SKU, in units; they sum to `units`. Empty for time.
        source: Where the prices were written down.
        whose: Of cost lines; lines about idle time have none.
    """

    backend: str
    units: int = 0
    currency: str = ""
    basis: str = ""
    rule: str = ""
    fit: str = ""
    issuer: str = ""
    parts: dict[str, int] = {}
    source: str = ""
    end_ns: int = 0
    withdrawn: bool = False
    whose: Whose = Whose()

    def says(self) -> tuple[object, ...]:
        """What makes two lines different; where the price was written down does not."""
        if self.withdrawn:
            return ()
        parts = tuple(sorted(self.parts.items()))
        fixed = (self.units, self.currency, self.basis, self.rule, self.issuer, self.end_ns)
        return (*fixed, parts, self.whose)


def known_costs(store: Store, lease_id: str, start_ns: int, end_ns: int) -> dict[CostKey, Line]:
    """The newest cost lines of windows that begin in `[start_ns, end_ns)`."""
    params = {"lease": lease_id, "start": start_ns, "end": end_ns}
    return _known_costs(store, _RANGE, params)


def known_costs_of(store: Store, attempt_ids: Sequence[str]) -> dict[CostKey, Line]:
    """The newest cost lines of these attempts' tokens, whenever they began."""
    where = "lease_id = '' AND has({ids:Array(String)}, attempt_id)"
    return _known_costs(store, where, {"ids": list(attempt_ids)})


def _known_costs(store: Store, where: str, params: Mapping[str, Any]) -> dict[CostKey, Line]:
    rows = store.query(
        f"SELECT attempt_id, lease_id, window_start_ns, {_newest(_COST_COLUMNS)}"  # noqa: S608
        f" FROM cost_lines WHERE {where} GROUP BY lease_id, window_start_ns, attempt_id",
        params,
        max_rows=EVERYTHING,
    )
    return {(row[0], row[1], row[2]): _cost_line(row[3:]) for row in rows.rows}


def known_idle(store: Store, lease_id: str, start_ns: int, end_ns: int) -> dict[IdleKey, Line]:
    """The newest idle lines of windows that begin in `[start_ns, end_ns)`."""
    rows = store.query(
        "SELECT lease_id, window_start_ns, class, owner,"  # noqa: S608
        f" {_newest(_COLUMNS)}, argMax(window_end_ns, known_ns) FROM idle_lines"
        f" WHERE {_RANGE} GROUP BY lease_id, window_start_ns, class, owner",
        {"lease": lease_id, "start": start_ns, "end": end_ns},
        max_rows=EVERYTHING,
    )
    return {(row[0], row[1], row[2], row[3]): _line(row[4:]) for row in rows.rows}


def append_costs(
    store: Store, lines: Mapping[CostKey, Line], known: Mapping[CostKey, Line], now_ns: int
) -> int:
    """Append what differs from `known`, withdraw what is no longer there; lines appended.

    A line that is summed elsewhere now (another customer, another currency) is withdrawn first,
    a moment before, so that the sums of both are right.
    """
    rows = []
    for key, line in _changes(lines, known).items():
        before = known.get(key)
        if before is not None and not before.withdrawn and _summed(before) != _summed(line):
            gone = msgspec.structs.replace(before, withdrawn=True)
            rows.append(_cost_cells(key, gone, before, now_ns - 1))
            before = None
        rows.append(_cost_cells(key, line, before, now_ns))
    note_priced(store, rows)
    store.insert_rows("cost_lines", rows)
    return len(rows)


def append_idle(
    store: Store, lines: Mapping[IdleKey, Line], known: Mapping[IdleKey, Line], now_ns: int
) -> int:
    """The same for idle lines."""
    rows = []
    for key, line in _changes(lines, known).items():
        keys = dict(zip(("lease_id", "window_start_ns", "class", "owner"), key, strict=True))
        rows.append(keys | {"window_end_ns": line.end_ns} | _cells(line, known.get(key), now_ns))
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


def _cost_cells(key: CostKey, line: Line, before: Line | None, now_ns: int) -> dict[str, object]:
    attempt_id, lease_id, start = key
    return {
        "attempt_id": attempt_id,
        "lease_id": lease_id,
        "window_start_ns": start,
        "issuer": line.issuer,
        "rule": line.rule,
        "fit": line.fit,
        "parts": {sku: f"{amount_of(units):f}" for sku, units in line.parts.items()},
        **msgspec.structs.asdict(line.whose),
        "priced": int(not line.withdrawn) - int(before is not None and not before.withdrawn),
        **_cells(line, before, now_ns),
    }


def _summed(line: Line) -> tuple[object, ...]:
    """What the sums are by: a line that moves from one to another is two lines."""
    return line.backend, line.currency, line.basis, line.whose


def _cells(line: Line, before: Line | None, now_ns: int) -> dict[str, object]:
    held = 0 if before is None or before.withdrawn else before.units
    holds = 0 if line.withdrawn else line.units
    return {
        "backend": line.backend,
        "amount": f"{amount_of(line.units):f}",
        "delta": f"{amount_of(holds - held):f}",
        "currency": line.currency,
        "basis": line.basis,
        "price_source": line.source,
        "withdrawn": line.withdrawn,
        "known_ns": now_ns,
    }


_COLUMNS = ("backend", "amount", "currency", "basis", "price_source", "withdrawn")
_COST_COLUMNS = (*_COLUMNS, "issuer", "rule", "fit", "parts", *Whose.__struct_fields__)
_RANGE = (
    "lease_id = {lease:String}"
    " AND window_start_ns >= {start:Int64} AND window_start_ns < {end:Int64}"
)


def _newest(columns: Sequence[str]) -> str:
    return ", ".join(f"argMax({name}, known_ns)" for name in columns)


def _cost_line(cells: tuple[Any, ...]) -> Line:
    issuer, rule, fit, parts, *whose = cells[len(_COLUMNS) :]
    return msgspec.structs.replace(
        _line((*cells[: len(_COLUMNS)], 0)),
        issuer=issuer,
        rule=rule,
        fit=fit,
        parts={sku: units_of(Decimal(amount)) for sku, amount in parts.items()},
        whose=Whose(**dict(zip(Whose.__struct_fields__, whose, strict=True))),
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
