"""Which answers can be sent block by block, and what must be cut from the later blocks.

The embedded engine hands out each block as a whole output of its own. Blocks of formats without
a frame around the rows can be put one behind the other; where there are only names in front,
the later blocks lose theirs; every other format is made in one piece.
"""

from collections.abc import Callable

DEFAULT = "TabSeparated"
_TABS = ("TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw")
_LINES = ("JSONCompactEachRow", "JSONCompactStringsEachRow")
_PLAIN = frozenset(
    {
        *_TABS,
        *_LINES,
        "Native",
        "CSV",
        "RowBinary",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
        "LineAsString",
    }
    | {"JSONStringsEachRow"}
)
_TYPES = {
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Parquet": "application/octet-stream",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
}


def content_type(name: str) -> str:
    """Of an answer in this format."""
    if name in _TYPES:
        return _TYPES[name]
    if name.startswith(_TABS):
        return "text/tab-separated-values; charset=UTF-8"
    return "text/plain; charset=UTF-8" if "JSON" in name else "application/octet-stream"


def head_of(name: str) -> Callable[[bytes], int] | None:
    """How many bytes in front of a block's rows are names; `None` where blocks can't be joined."""
    if name in _PLAIN:
        return lambda block: 0
    base, rows = _base(name)
    if not rows:
        return None
    if base == "RowBinary":
        return lambda block: _binary_head(block, rows)
    if base == "CSV" or base in _TABS or base in _LINES:
        return lambda block: _text_head(block, rows, quotes=base == "CSV")
    return None


def _base(name: str) -> tuple[str, int]:
    """The format without its suffix, and how many rows the suffix stands for."""
    for suffix, rows in (("WithNamesAndTypes", 2), ("WithNames", 1)):
        if name.endswith(suffix):
            return name.removesuffix(suffix), rows
    return name, 0


def _text_head(block: bytes, rows: int, *, quotes: bool) -> int:
    """The end of the first `rows` lines; a line end within double quotes does not count."""
    at = 0
    for _ in range(rows):
        end = block.index(b"\n", at) + 1
        while quotes and block.count(b'"', at, end) % 2:
            end = block.index(b"\n", end) + 1
        at = end
    return at


def _binary_head(block: bytes, rows: int) -> int:
    """The end of the count of columns, their names and perhaps their types."""
    count, at = _number(block, 0)
    for _ in range(count * rows):
        size, at = _number(block, at)
        at += size
    return at


def _number(block: bytes, at: int) -> tuple[int, int]:
    """A LEB128 number, and where it ends."""
    value = shift = 0
    while True:
        byte = block[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at
