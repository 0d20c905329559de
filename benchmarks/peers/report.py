"""From cells to figures: medians, ranges, ratios against the best peer, and what was promised."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import msgspec

from fungible.bench.metrics import percentile
from peers.catalogue import CLASSES, F32, HALF, LOW, OURS, Engine
from peers.measure import Cell

EXACT = ("llama.cpp q4_1", "OpenVINO-GenAI q4_1")  # peers that compute with the file's 4-bit values
ROUNDED = "fungible onnxruntime int4-ort, from floats"
TRADED = "int4-ort"  # the variant with runtime-specific operators: no portable graph


class Spread(msgspec.Struct, frozen=True):
    """Median and range of a figure over rounds."""

    median: float
    low: float
    high: float
    rounds: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's server at one concurrency. Times to first token are pooled over rounds."""

    tokens_per_s: Spread
    total_tokens_per_s: Spread
    ttft_p50_ms: float
    ttft_p99_ms: float
    requests: int


class Row(msgspec.Struct, kw_only=True):
    """What an engine comes to. Memory is the peak over rounds, in MB of PSS.

    Attributes:
        bound: Tokens/s if decoding did nothing but read its bytes at the measured bandwidth.
        fraction: Of that bound, reached.
        same_tokens: Greedy tokens of the first prompt equal to the first float32 engine's, from
            the start; `None` where the library does not tell tokens.
    """

    name: str
    peer: str
    precision: str
    prefill: Spread | None = None
    decode: Spread | None = None
    bytes_per_token: int = 0
    bound: float = 0.0
    fraction: float = 0.0
    peak_mb: int = 0
    served_peak_mb: int = 0
    load_s: float = 0.0
    served: dict[int, Served] = {}
    same_tokens: int | None = None
    loads_1min: list[float] = []
    versions: dict[str, str] = {}
    errors: dict[str, str] = {}


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio in one run: ours over a peer (inverted for times, so that more is better).

    Attributes:
        required: What was promised; 0 promises nothing.
    """

    what: str
    ours: str
    peer: str
    ratio: Spread
    required: float

    @property
    def met(self) -> bool:
        """Whether the median keeps the promise."""
        return self.ratio.median >= self.required


# Engine -> round -> one figure
Figures = dict[str, dict[int, float]]


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of some values, or nothing."""
    found = sorted(values)
    return Spread(median(found), found[0], found[-1], len(found)) if found else None


def per_round(cells: Sequence[Cell], kind: str, figure: Callable[[Cell], float | None]) -> Figures:
    """One figure of every engine's cells of a kind; cells without it are left out."""
    found: Figures = {}
    for cell in cells:
        value = figure(cell) if cell.kind == kind and not cell.error else None
        if value is not None:
            found.setdefault(cell.engine, {})[cell.round] = value
    return found


def ratios(ours: dict[int, float], peer: dict[int, float]) -> Spread | None:
    """Ours over the peer's, round by round: what slowed the machine in a round hit both."""
    return spread(ours[at] / peer[at] for at in ours.keys() & peer.keys() if peer[at] > 0)


def best(figures: Figures, names: Iterable[str]) -> str | None:
    """The one of `names` with the highest median."""
    have = [name for name in names if figures.get(name)]
    return max(have, key=lambda name: median(figures[name].values()), default=None)


def decode(cell: Cell) -> float | None:
    """Tokens per second of one stream, median of the cell's repeats."""
    return median(cell.decode) if cell.decode else None


def prefill(cell: Cell) -> float | None:
    """Prompt tokens per second, median of the cell's repeats."""
    return median(cell.prefill) if cell.prefill else None


def served(concurrency: int, figure: str) -> Callable[[Cell], float | None]:
    """A figure of a server at a concurrency: tokens per second, or 1 / TTFT p99."""

    def of(cell: Cell) -> float | None:
        load = cell.loads.get(concurrency)
        if load is None:
            return None
        if figure == "ttft_p99":
            worst = percentile(load["ttft_ms"], 99)
            return 1000 / worst if worst > 0 else None
        return float(load[figure])

    return of


def rows(
    engines: Sequence[Engine], cells: Sequence[Cell], sizes: dict[str, int], read_gb_s: float
) -> list[Row]:
    """A row per engine, also of those that have only errors.

    Args:
        engines: What was to be measured.
        cells: What was.
        sizes: Engine -> bytes that a token reads.
        read_gb_s: The machine's bandwidth.
    """
    fast, pre = per_round(cells, "bare", decode), per_round(cells, "bare", prefill)
    reference = next((c.tokens for c in cells if c.tokens and "f32" in c.engine), [])
    found = []
    for engine in engines:
        mine = [cell for cell in cells if cell.engine == engine.name]
        row = Row(name=engine.name, peer=engine.peer, precision=engine.precision)
        row.decode = spread(fast.get(engine.name, {}).values())
        row.prefill = spread(pre.get(engine.name, {}).values())
        row.bytes_per_token = sizes.get(engine.name, 0)
        if row.bytes_per_token:
            row.bound = read_gb_s * 1e9 / row.bytes_per_token
        if row.bound and row.decode:
            row.fraction = row.decode.median / row.bound
        for cell in mine:
            _add(row, cell, reference)
        row.served = _served(mine)
        found.append(row)
    return found


def _add(row: Row, cell: Cell, reference: list[int]) -> None:
    if cell.error:
        row.errors[cell.kind] = cell.error
        return
    megabytes = round(cell.peak_pss / 1e6)
    if cell.kind == "served":
        row.served_peak_mb = max(row.served_peak_mb, megabytes)
    else:
        row.peak_mb = max(row.peak_mb, megabytes)
        row.load_s = max(row.load_s, cell.load_s)
    row.loads_1min.append(cell.load_1min)
    row.versions |= cell.versions
    if cell.tokens and row.same_tokens is None:
        pairs = zip(cell.tokens, reference, strict=False)
        equal = [a == b for a, b in pairs]
        row.same_tokens = equal.index(False) if False in equal else len(equal)


def _served(cells: Sequence[Cell]) -> dict[int, Served]:
    good = [cell for cell in cells if cell.kind == "served" and not cell.error]
    found = {}
    for concurrency in sorted({at for cell in good for at in cell.loads}):
        loads = [cell.loads[concurrency] for cell in good if concurrency in cell.loads]
        firsts = [value for load in loads for value in load["ttft_ms"]]
        out, every = (
            spread(load[name] for load in loads) for name in ("tokens_per_s", "total_tokens_per_s")
        )
        if out is None or every is None:
            continue
        found[concurrency] = Served(
            tokens_per_s=out,
            total_tokens_per_s=every,
            ttft_p50_ms=percentile(firsts, 50),
            ttft_p99_ms=percentile(firsts, 99),
            requests=len(firsts),
        )
    return found


def bars(engines: Sequence[Engine], cells: Sequence[Cell]) -> list[Bar]:
    """Every promise that these cells can tell something about."""
    judge = _Judge(engines, cells)
    for precision, required in ((F32, 1.0), (HALF, 1.0), (LOW, 0.8)):
        judge.against_best(precision, "decode", "bare", decode, required)
        judge.against_best(precision, "prefill", "bare", prefill, required)
    fast = per_round(cells, "bare", decode)
    exact = best(fast, EXACT)
    low = best(fast, judge.names(LOW, ours=True))
    judge.pair("8/4-bit decode, the file's values", fast, low, exact, 0.8)
    judge.pair("decode", fast, judge.traded(), "ORT-GenAI int4", 0.95)
    judge.pair("decode, both rounded again", fast, ROUNDED, "ORT-GenAI int4", 0.95)
    judge.pair("decode", fast, judge.traded(), "fungible onnxruntime int4", 0.0)
    loads = sorted({at for cell in cells for at in cell.loads})
    for at in loads:
        figures = per_round(cells, "served", served(at, "tokens_per_s"))
        finer = [n for p in (F32, HALF) for n in judge.names(p, ours=True)]
        required = 1.0 if at == 16 else 0.0
        judge.pair(f"tokens/s at {at}", figures, best(figures, finer), "vLLM bf16", required)
    for precision in CLASSES:
        for at in loads:
            figure = served(at, "ttft_p99")
            judge.against_best(precision, f"TTFT p99 at {at}", "served", figure, 1.0)
    return judge.found


class _Judge:
    """Collects bars."""

    def __init__(self, engines: Sequence[Engine], cells: Sequence[Cell]) -> None:
        self.found: list[Bar] = []
        self._engines = engines
        self._cells = cells

    def names(self, precision: str, *, ours: bool) -> list[str]:
        """Engines of a class, ours (portable graphs only) or the peers."""
        return [
            one.name
            for one in self._engines
            if one.precision == precision
            and (one.peer == OURS) == ours
            and not (ours and one.options.get("variant") == TRADED)
        ]

    def traded(self) -> str | None:
        """Our variant with runtime-specific operators."""
        return next((e.name for e in self._engines if e.options.get("variant") == TRADED), None)

    def against_best(
        self,
        precision: str,
        what: str,
        kind: str,
        figure: Callable[[Cell], float | None],
        required: float,
    ) -> None:
        """Our best of a class against the best peer of it."""
        figures = per_round(self._cells, kind, figure)
        ours = best(figures, self.names(precision, ours=True))
        peer = best(figures, self.names(precision, ours=False))
        self.pair(f"{precision} {what}", figures, ours, peer, required)

    def pair(
        self, what: str, figures: Figures, ours: str | None, peer: str | None, required: float
    ) -> None:
        """One named engine against another, where both have figures."""
        if ours is None or peer is None:
            return
        ratio = ratios(figures.get(ours, {}), figures.get(peer, {}))
        if ratio is not None:
            self.found.append(Bar(what=what, ours=ours, peer=peer, ratio=ratio, required=required))
