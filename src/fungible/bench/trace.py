"""A trace: the shape of recorded traffic, without a word of it.

Mooncake's format (Qin et al., arXiv 2407.00079; also read by AIPerf and GuideLLM), JSON
Lines: `timestamp` (ms since the start), `input_length` and `output_length` (tokens),
`hash_ids` (one per prefix block, equal ids for equal text), and optionally `session_id`.
"""

import hashlib
import math
import random
from importlib import resources
from pathlib import Path

import msgspec

from fungible.errors import ConfigError

BUNDLED = ("everyday",)
# One token each in common vocabularies, with the space before them.
_WORDS = """time year people way day man thing woman life child world school state family student
group country problem hand part place case week company system program question work
government number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city""".split()  # noqa: SIM905  # one word a line reads worse


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request: when it came (ms), how long it was and its answer was (tokens)."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []
    session_id: str = ""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in order of arrival.

    Attributes:
        trace_hash: 16 hex digits over the rows.
        block: Tokens that one entry of `hash_ids` stands for.
    """

    name: str
    trace_hash: str
    block: int
    rows: list[TraceRow]


def load_trace(name_or_path: str | Path) -> Trace:
    """A bundled trace by its name, or a trace from a JSON Lines file.

    Raises:
        ConfigError: No such trace, or a line is malformed; names file, line and field.
    """
    if str(name_or_path) in BUNDLED:
        source = resources.files("fungible.bench") / "traces" / f"{name_or_path}.jsonl"
        return parse_trace(source.read_bytes(), str(name_or_path), f"trace {name_or_path}")
    path = Path(name_or_path)
    try:
        return parse_trace(path.read_bytes(), path.stem, str(path))
    except OSError as error:
        hint = f"bundled traces: {', '.join(BUNDLED)}; or give the path of a .jsonl file"
        raise ConfigError(f"trace {path}: cannot be read: {error.strerror}", hint=hint) from error


def parse_trace(data: bytes, name: str, where: str) -> Trace:
    """The trace in `data`; errors name `where` it came from.

    Raises:
        ConfigError: A line is malformed, time runs backwards, or there is no row.
    """
    rows: list[TraceRow] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, f"{where}:{number}")
        if rows and row.timestamp < rows[-1].timestamp:
            raise ConfigError(
                f"{where}:{number}: timestamp {row.timestamp} is before the line above it",
                hint="sort the trace by timestamp",
            )
        rows.append(row)
    if not rows:
        raise ConfigError(f"{where}: no requests in it")
    content = msgspec.json.encode(rows, order="deterministic")
    blocks = [math.ceil(row.input_length / len(row.hash_ids)) for row in rows if row.hash_ids]
    return Trace(
        name=name,
        trace_hash=hashlib.sha256(content).hexdigest()[:16],
        block=max(blocks, default=512),
        rows=rows,
    )


def synthesise(trace: Trace, row: TraceRow) -> str:
    """A prompt of `input_length` words, about one token each; equal blocks get equal words.

    So prefix caches hit where they did, though no text was recorded. Beyond the hashed
    blocks the words depend on the request's own lengths and time.
    """
    words: list[str] = []
    own = f"{row.timestamp}/{row.input_length}/{row.output_length}/{row.session_id}"
    for at in range(math.ceil(row.input_length / trace.block)):
        key = f"block/{row.hash_ids[at]}" if at < len(row.hash_ids) else f"own/{own}/{at}"
        words += random.Random(key).choices(_WORDS, k=trace.block)  # noqa: S311  # not a secret
    return " ".join(words[: row.input_length])


def _row(line: bytes, at: str) -> TraceRow:
    try:
        row = msgspec.json.decode(line, type=TraceRow)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{at}: {error}",
            hint='a row is {"timestamp": ms, "input_length": n, "output_length": n}',
        ) from error
    for field, value, least in (
        ("timestamp", row.timestamp, 0),
        ("input_length", row.input_length, 1),
        ("output_length", row.output_length, 1),
    ):
        if value < least:
            raise ConfigError(f"{at}: {field} is {value}; it must be at least {least}")
    return row
