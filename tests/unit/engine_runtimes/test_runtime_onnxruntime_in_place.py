"""The runtime of `int4-ort`: slots share a cache that the graph itself appends to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from fungible.artifacts.build import build_artifact
from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.session import all_logits, open_session
from fungible.artifacts.store import ArtifactStore
from fungible.contract.target import parse_target
from fungible.engine.runtimes.base import Runtime
from fungible.engine.runtimes.onnxruntime_in_place import InPlaceRuntime
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import ArtifactError, ContextLengthError, InputError
from support.runtimes import some_tokens
from support.tiny_model import CONFIG, write_tiny_gguf

SLOTS, CONTEXT = 4, 48
# Sums in another order now and then round an activation to another one of 255 steps.
CLOSE = 0.1


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From centred 4-bit blocks: both variants make the same products, rounded alike."""
    root = tmp_path_factory.mktemp("in-place")
    source = write_tiny_gguf(root / "tiny.gguf", kind=GGMLQuantizationType.Q4_0)
    return build_artifact(str(source), ArtifactStore(root), variants=["int4", "int4-ort"])


@pytest.fixture(scope="module")
def expected(artifact: Path) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Logits after each token of a text, by the portable graph over the same blocks."""
    session = open_session(artifact / "int4" / "model.onnx", 1)
    return lambda text: all_logits(session, CONFIG, text)


@pytest.fixture
def runtime(artifact: Path) -> Iterator[Runtime]:
    opened = open_runtime(
        artifact,
        "int4-ort",
        parse_target("onnxruntime:cpu"),
        slots=SLOTS,
        context=CONTEXT,
        threads=1,
    )
    assert isinstance(opened, InPlaceRuntime)
    yield opened
    opened.close()


def close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)


def test_prompts_in_pieces_and_scores_are_the_portable_graphs(
    runtime: Runtime, expected: Callable[..., NDArray[np.float32]]
) -> None:
    text = some_tokens(30)
    wanted = expected(text)
    assert np.ptp(wanted, axis=1).min() > 20 * CLOSE
    close(runtime.prefill(1, text[:1]), wanted[0])
    close(runtime.prefill(1, text[1:11]), wanted[10])
    scores = runtime.score(1, text[11:29])
    assert scores.shape == (18, CONFIG.vocab)
    close(scores, wanted[11:29])
    close(runtime.decode([1], text[29:])[0], wanted[29])


def test_any_slots_in_any_order_get_their_own_answers(
    runtime: Runtime, expected: Callable[..., NDArray[np.float32]]
) -> None:
    texts = [some_tokens(count, seed=count) for count in (4, 17, 9, 1)]
    for slot, text in enumerate(texts):
        runtime.prefill(slot, text)
    orders = ([3, 0, 1], [2], [0, 1, 2, 3], [3, 2], [1, 3], [1, 3, 0, 2], [0])
    for turn, order in enumerate(orders):
        new = some_tokens(len(order), seed=100 + turn)
        logits = runtime.decode(order, new)
        for row, slot in enumerate(order):
            texts[slot] = np.append(texts[slot], new[row])
            close(logits[row], expected(texts[slot])[-1])
        # Slots that moved to make room are read where they are now.
        bystander = (order[0] + 1) % SLOTS
        more = some_tokens(1, seed=200 + turn)
        texts[bystander] = np.append(texts[bystander], more)
        close(runtime.prefill(bystander, more), expected(texts[bystander])[-1])


def test_forks_and_truncated_slots_hold_what_they_should(
    runtime: Runtime, expected: Callable[..., NDArray[np.float32]]
) -> None:
    text, other = some_tokens(20, seed=6), some_tokens(5, seed=7)
    runtime.prefill(2, text)
    runtime.decode([2], text[:1])  # moves the slot to the first row
    runtime.fork(2, 0, 12)
    forked = np.concatenate([text[:12], other])
    close(runtime.prefill(0, other), expected(forked)[-1])
    runtime.truncate(2, 7)
    logits = runtime.decode([2, 0], np.array([8, 9]))
    close(logits[0], expected(np.append(text[:7], 8))[-1])
    close(logits[1], expected(np.append(forked, 9))[-1])
    runtime.release(2)
    close(runtime.prefill(2, other), expected(other)[-1])
    with pytest.raises(InputError, match="must be empty"):
        runtime.fork(0, 2, 3)
    with pytest.raises(InputError, match="holds 5 tokens, not 6"):
        runtime.truncate(2, 6)


def test_a_slot_can_be_filled_and_not_overfilled(
    runtime: Runtime, expected: Callable[..., NDArray[np.float32]]
) -> None:
    text = some_tokens(CONTEXT, seed=11)
    runtime.prefill(0, text[:-1])
    runtime.prefill(1, text[:7])
    logits = runtime.decode([0, 1], np.array([text[-1], text[7]]))
    close(logits[0], expected(text)[-1])
    with pytest.raises(ContextLengthError, match=f"{CONTEXT} of {CONTEXT} tokens"):
        runtime.decode([1, 0], np.array([1, 1]))
    with pytest.raises(ContextLengthError):
        runtime.prefill(1, text)
    # A refused step changes nothing.
    close(runtime.decode([1], text[8:9])[0], expected(text[:9])[-1])


def test_logits_are_the_callers_to_keep(runtime: Runtime) -> None:
    first = runtime.prefill(0, some_tokens(5))
    second = runtime.decode([0], some_tokens(1))
    copies = first.copy(), second.copy()
    runtime.prefill(1, some_tokens(7, seed=1))
    runtime.decode([0], some_tokens(1, seed=2))
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(second, copies[1])


def test_openvino_refuses_it_and_says_who_does_not(artifact: Path) -> None:
    pytest.importorskip("fungible.engine.runtimes.openvino", exc_type=ImportError)
    target = parse_target("openvino:cpu")
    with pytest.raises(ArtifactError, match="'int4-ort' is not for OpenVINO") as refused:
        open_runtime(artifact, "int4-ort", target, slots=1, context=8, threads=1)
    assert "it runs on onnxruntime" in str(refused.value.hint)


@pytest.mark.parametrize("family", ["gemma3", "phi4", "qwen3"])
def test_windows_and_turning_heads_survive_the_cache(tmp_path: Path, family: str) -> None:
    source = Path(__file__).parents[2] / "fixtures" / "families" / family
    built = build_artifact(str(source), ArtifactStore(tmp_path), variants=["int4-ort"])
    config = load_manifest(built).config
    session = open_session(built / "int4-ort" / "model.onnx", 1)
    text = np.random.default_rng(0).integers(0, config.vocab, 34)
    wanted = all_logits(session, config, text)
    runtime = open_runtime(
        built, "int4-ort", parse_target("onnxruntime:cpu"), slots=2, context=40, threads=1
    )
    close(runtime.score(0, text[:20]), wanted[:20])
    runtime.prefill(1, text[:3])
    for at in range(20, 34):
        logits = runtime.decode([1, 0], np.array([text[3], text[at]]))
        close(logits[1], wanted[at])
    runtime.close()
