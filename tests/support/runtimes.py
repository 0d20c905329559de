"""Every runtime of the registry, opened the same way."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fungible.contract.target import Target
from fungible.engine.runtimes.base import Logits, Runtime
from fungible.engine.runtimes.registry import RUNTIMES, open_runtime
from fungible.errors import MissingExtraError
from support.llama_oracle import oracle_logits
from support.tiny_model import CONFIG, tiny_weights

# What each runtime cannot be imported without.
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "xla": "jax", "iree": "iree"}
SLOTS, CONTEXT = 4, 48
NAMES = sorted(RUNTIMES)


def on_cpu(runtime: str) -> Target:
    """The target that every machine has."""
    return Target(runtime)


def open_or_skip(
    artifact: Path,
    name: str,
    variant: str = "f32",
    *,
    slots: int = SLOTS,
    context: int = CONTEXT,
    threads: int = 2,
) -> Runtime:
    """Open a runtime on the CPU; skip the test where its library is not installed."""
    try:
        return open_runtime(
            artifact, variant, on_cpu(name), slots=slots, context=context, threads=threads
        )
    except MissingExtraError as error:
        pytest.skip(f"{error} ({error.hint})")


def some_tokens(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Random tokens of the tiny model."""
    return np.random.default_rng(seed).integers(0, CONFIG.vocab, count)


def expected(tokens: NDArray[np.int64]) -> Logits:
    """What the tiny model's logits must be after each of the tokens: `(S, vocab)`."""
    return oracle_logits(tiny_weights(), CONFIG, tokens.tolist())


def greedy(runtime: Runtime, slot: int, prompt: NDArray[np.int64], count: int) -> list[int]:
    """The `count` most likely tokens after a prompt, one after the other; empties the slot."""
    answer = [int(runtime.prefill(slot, prompt).argmax())]
    while len(answer) < count:
        last = np.array(answer[-1:], np.int64)
        answer.append(int(runtime.decode([slot], last)[0].argmax()))
    runtime.release(slot)
    return answer


def installed(name: str) -> bool:
    """Whether the runtime's library is here; it is not imported."""
    return find_spec(PACKAGES[name]) is not None
