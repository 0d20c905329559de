"""A runtime without a model: logits are a fixed function of the tokens in a slot.

It keeps the whole contract of `Runtime` (slots are independent, prefill continues, release
empties), so schedulers can be tested exactly and fast.
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fungible.engine.runtimes.base import Logits, RuntimeLimits

NextToken = Callable[[list[int]], int]


class HistoryRuntime:
    """Deterministic logits.

    Args:
        next_token: Which token gets nearly all probability, from the slot's history; `None`
            gives random-looking logits that depend on the whole history and on nothing else.
        gate: Each call waits for one permit, so that a test decides when a step happens.
        fault: Called before each call with its name and its call number; may raise.
    """

    def __init__(
        self,
        vocab: int,
        *,
        slots: int = 4,
        context: int = 64,
        next_token: NextToken | None = None,
        gate: threading.Semaphore | None = None,
        fault: Callable[[str, int], None] | None = None,
    ) -> None:
        self.limits = RuntimeLimits(slots=slots, context=context, vocab=vocab)
        self.calls: list[tuple[str, object]] = []
        self.closed = False
        self.poison: set[int] = set()
        self._next_token = next_token
        self._gate = gate
        self._fault = fault
        self._history: dict[int, list[int]] = {}

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        self._begin("prefill", (slot, len(tokens)))
        return self._append(slot, tokens.tolist())

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        self._begin("decode", tuple(slots))
        assert len(set(slots)) == len(slots) == len(tokens)
        rows = [
            self._append(slot, [token]) for slot, token in zip(slots, tokens.tolist(), strict=True)
        ]
        return np.stack(rows)

    def score(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        self._begin("score", (slot, len(tokens)))
        return np.stack([self._append(slot, [token]) for token in tokens.tolist()])

    def fork(self, source: int, slot: int, length: int) -> None:
        self._check_fault("fork")
        self.calls.append(("fork", (source, slot, length)))
        assert not self._history.get(slot), "a fork goes to an empty slot"
        assert length <= len(self._history[source])
        self._history[slot] = self._history[source][:length]

    def truncate(self, slot: int, length: int) -> None:
        self._check_fault("truncate")
        self.calls.append(("truncate", (slot, length)))
        assert length <= len(self._history.get(slot, []))
        del self._history.get(slot, [])[length:]

    def release(self, slot: int) -> None:
        self._check_fault("release")
        self.calls.append(("release", slot))
        self._history.pop(slot, None)

    def close(self) -> None:
        self.closed = True

    def names(self) -> list[str]:
        """What was called, in order."""
        return [name for name, _ in self.calls]

    def _begin(self, name: str, what: object) -> None:
        if self._gate is not None:
            self._gate.acquire()
        self._check_fault(name)
        self.calls.append((name, what))

    def _check_fault(self, name: str) -> None:
        if self._fault is not None:
            self._fault(name, len(self.calls))

    def _append(self, slot: int, tokens: list[int]) -> Logits:
        history = self._history.setdefault(slot, [])
        history += tokens
        assert len(history) <= self.limits.context, "a slot was overfilled"
        if history[0] in self.poison:
            return np.full(self.limits.vocab, np.nan, dtype=np.float32)
        if self._next_token is not None:
            logits = np.zeros(self.limits.vocab, dtype=np.float32)
            logits[self._next_token(history)] = 40.0
            return logits
        rng = np.random.default_rng(history)
        return (3 * rng.standard_normal(self.limits.vocab)).astype(np.float32)
