"""The buffers of one call of a graph that keeps no state."""

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray


class GraphStep:
    """The buffers of one call of the graph; inputs are written and outputs read in place.

    Attributes:
        past: `[2·layers, B, kv_heads, P, head_dim]`, float32 or the bits of bfloat16 (uint16);
            each `past[i]` is contiguous.
        mask: Boolean `[B, 1, S, P + S]`.
        ids: Tokens, int64 `[B, S]`; `positions` likewise.
        wanted: Rows of the flattened tokens whose logits are wanted, int64 `[N]`.
        added: The new keys and values, shaped like `past` with S instead of P.
        logits: Float32 `[N, vocab]`.
        bound: For the runtime: what it made of these buffers, kept as long as they are.
    """

    def __init__(
        self, past: NDArray[Any], mask: NDArray[np.bool_], wanted: list[int], vocab: int
    ) -> None:
        caches, rows, kv_heads, _, head_dim = past.shape
        new = mask.shape[2]
        self.past = past
        self.mask = mask
        self.ids = np.zeros((rows, new), np.int64)
        self.positions = np.zeros((rows, new), np.int64)
        self.wanted = np.array(wanted, np.int64)
        self.added = np.zeros((caches, rows, kv_heads, new, head_dim), past.dtype)
        self.logits = np.zeros((len(wanted), vocab), np.float32)
        self.bound: Any = None

    def first(self, rows: int) -> "GraphStep":
        """A step of the first rows in the same memory, for steps that want one logit a row."""
        part = copy(self)
        part.past, part.added = self.past[:, :rows], self.added[:, :rows]
        part.mask, part.ids = self.mask[:rows], self.ids[:rows]
        part.positions = self.positions[:rows]
        part.wanted, part.logits = self.wanted[:rows], self.logits[:rows]
        part.bound = None
        return part

    def inputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's inputs by name."""
        yield "input_ids", self.ids
        yield "position_ids", self.positions
        yield "attention_mask", self.mask
        yield "logits_index", self.wanted
        for name, array in _named(self.past):
            yield f"past_{name}", array

    def outputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's outputs by name."""
        yield "logits", self.logits
        for name, array in _named(self.added):
            yield f"new_{name}", array


def _named(caches: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    for index, array in enumerate(caches):
        yield f"{'value' if index % 2 else 'key'}.{index // 2}", array
