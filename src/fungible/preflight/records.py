"""What preflight reports, in the order of a reader's questions."""

import datetime as dt

import msgspec

from fungible.preflight.chips import Price
from fungible.preflight.counts import StepShape
from fungible.preflight.job import Memory
from fungible.preflight.roofline import Limit


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two steps, at the sizes it was compiled for.

    Attributes:
        why: Why it does not compile; empty when it does.
        seconds: Time of the compiler.
        memory: What the compiler says of the device's memory.
        flops_per_token: Least operations.
        bytes_per_token: Least bytes of memory moved.
        bound_tokens_per_s: Upper bound over all rows; `None` when the chip's bandwidth is unknown.
        limit: `memory` or `compute`.
    """

    shape: StepShape
    why: str
    seconds: float
    memory: Memory
    flops_per_token: int
    bytes_per_token: int
    bound_tokens_per_s: float | None = None
    limit: Limit | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The bound at one batch: what a user sees at best, and what a million tokens cost at least."""

    batch: int
    tokens_per_s_per_user: float
    tokens_per_s: float
    usd_per_mtok: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One chip. Figures without a prefix are of the decode step and of one device of the chip.

    Attributes:
        compiles: Both steps compile.
        why: Why not; empty when they do.
        fits: Whether the memory suffices; `None` when the chip's memory or, because it does not
            compile, the need is unknown.
        memory_bytes: What the larger step needs: arguments, results, temporary memory and code
            as far as the compiler says, and at least weights and cache.
        memory_available: Of one device; `None` when unknown.
        weight_bytes: Of the variant's program.
        cache_bytes: Keys and values of `batch` rows of `context` tokens.
        floor_usd_per_mtok: `None` without a price or a bound.
        largest_batch: Rows of `context` tokens that would fit if temporary memory did not grow;
            `None` when unknown.
        curve: The bound at other batches, as far as they fit.
    """

    target: str
    chip: str
    devices: int
    compiler: str
    compiles: bool
    why: str
    fits: bool | None
    memory_bytes: int
    memory_available: int | None
    weight_bytes: int
    cache_bytes: int
    temporary_bytes: int | None
    largest_batch: int | None
    flops_per_token: int
    bytes_per_token: int
    bound_tokens_per_s: float | None
    bound_tokens_per_s_per_user: float | None
    limit: Limit | None
    floor_usd_per_mtok: float | None
    price: Price | None
    decode: Phase
    prefill: Phase
    curve: list[Point]
    sources: tuple[str, ...]
    note: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `--json`."""

    artifact: str
    digest: str
    variant: str
    batch: int
    context: int
    date: dt.date
    targets: list[Row]
