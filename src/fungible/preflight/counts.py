"""What one step must compute and move, counted from the model's shape and the program's arguments.

The compilers' own figures are not used: a loop is counted as one pass of its body, and time
estimates come out negative on some generations. These counts are the least that any
implementation of the same program does, so that a bound made of them is a bound: products
only, every weight read once a step, every attended cache position read once and every new one
written once.
"""

import math
from collections.abc import Sequence

import msgspec

from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.program import Argument, Program
from fungible.errors import InputError

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1, "int4": 0.5}
_BYTES |= {"uint4": 0.5, "int32": 4, "bool": 1}
_KINDS = {"float32": "f32", "bfloat16": "bf16", "float16": "bf16"}
_KINDS |= dict.fromkeys(("int8", "uint8", "int4", "uint4"), "int8")
_CHUNK = 128


class StepShape(msgspec.Struct, frozen=True, order=True):
    """The sizes that a program is compiled for: rows, tokens per row, slots, slot length."""

    rows: int
    length: int
    slots: int
    context: int

    def symbols(self) -> dict[str, int]:
        """The program's symbols; every position of a slot is attended to."""
        context = self.context
        return {"B": self.rows, "S": self.length, "N": self.slots, "C": context, "P": context}


class StepCount(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of `tokens` tokens does at least: operations, and bytes of memory moved."""

    tokens: int
    flops: int
    bytes: int


def decode_shape(batch: int, context: int) -> StepShape:
    """One token for each of `batch` rows."""
    return StepShape(batch, 1, batch, context)


def prefill_shape(batch: int, context: int) -> StepShape:
    """One chunk of one row's prompt, beside `batch` slots."""
    return StepShape(1, min(_CHUNK, context), batch, context)


def weights(program: Program) -> list[Argument]:
    """The arguments that stay the same from step to step: those without a symbolic size."""
    return [each for each in program.arguments if all(isinstance(n, int) for n in each.shape)]


def caches(program: Program) -> list[Argument]:
    """The arguments that the step gives back changed.

    Raises:
        InputError: There are none: the program does not generate text.
    """
    results = {result.name for result in program.results}
    found = [each for each in program.arguments if each.name in results]
    if not found:
        raise InputError(
            "the program keeps no cache of keys and values, so there is no decode step",
            hint="preflight compiles artifacts that generate text",
        )
    return found


def weight_bytes(program: Program) -> int:
    """Bytes of all weights."""
    return nbytes(weights(program), {})


def cache_bytes(program: Program, slots: int, positions: int) -> int:
    """Bytes of the keys and values of `positions` tokens in each of `slots` slots."""
    return nbytes(caches(program), {"N": slots, "C": positions})


def count_step(config: ModelConfig, program: Program, shape: StepShape) -> StepCount:
    """The count of one step: of each row the last `shape.length` of `shape.context` tokens.

    A layer with a window looks back, and reads, no further than that.
    """
    rows, tokens = shape.rows, shape.rows * shape.length
    reach = [
        config.window if config.has_window(at) else shape.context for at in range(config.layers)
    ]
    attended = sum(_attended(shape, window) for window in reach)
    flops = (
        2 * tokens * _layer_weights(config)
        + 4 * rows * config.heads * config.head_dim * attended
        + 2 * rows * config.hidden * config.vocab
    )
    read = sum(
        nbytes([cache], {"N": rows, "C": min(shape.context, reach[_layer(cache)])})
        for cache in caches(program)
    )
    written = cache_bytes(program, rows, shape.length)
    moved = nbytes(_streamed(program), {}) + read + written
    return StepCount(tokens=tokens, flops=flops, bytes=moved)


def number_kinds(program: Program) -> set[str]:
    """The types that products may run in: `f32`, `bf16`, `int8`; other types are left out."""
    used = [*weights(program), *caches(program)]
    return {_KINDS[each.dtype] for each in used if each.dtype in _KINDS}


def nbytes(arguments: Sequence[Argument], symbols: dict[str, int]) -> int:
    """Bytes of the arguments, with these values for their symbols.

    Raises:
        InputError: An argument has a type whose size is not known.
    """
    unknown = {each.dtype for each in arguments} - set(_BYTES)
    if unknown:
        raise InputError(f"the program has arguments of unknown type: {', '.join(unknown)}")
    return sum(
        math.ceil(_BYTES[each.dtype] * math.prod(symbols[n] if isinstance(n, str) else n
                                                 for n in each.shape))
        for each in arguments
    )  # fmt: skip


def _attended(shape: StepShape, window: int) -> int:
    """Positions that one row's tokens attend to in a layer, over all of them."""
    ends = range(shape.context - shape.length + 1, shape.context + 1)
    return sum(min(end, window) for end in ends)


def _layer(cache: Argument) -> int:
    return int(cache.name.rpartition(".")[2])


def _layer_weights(config: ModelConfig) -> int:
    """Weights of the linear layers of all blocks: attention and a gated feed-forward part."""
    queries = config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    per_layer = config.hidden * (2 * queries + 2 * keys + 3 * config.intermediate)
    return config.layers * per_layer


def _streamed(program: Program) -> list[Argument]:
    """The weights that a step reads whole: an embedding table beside a head is only looked up."""
    every = weights(program)
    if any("lm_head" in each.name for each in every):
        return [each for each in every if "embed_tokens" not in each.name]
    return every
