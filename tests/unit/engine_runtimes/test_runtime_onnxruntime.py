"""ONNX Runtime behind the Runtime protocol, against a forward pass in plain numpy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fungible.artifacts.manifest import VARIANTS
from fungible.contract.target import Target, parse_target
from fungible.engine.runtimes.base import Runtime
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import ArtifactError, ContextLengthError, InputError
from support.llama_oracle import oracle_logits
from support.tiny_model import CONFIG, build_tiny_artifact, tiny_weights

TARGET = parse_target("onnxruntime:cpu")
PROMPT = np.array([1, 50, 60, 70, 260, 12, 12, 270, 3], dtype=np.int64)
OTHER = np.array([2, 200, 31], dtype=np.int64)
CONTEXT = 160


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"))


@pytest.fixture
def start(tiny: Path) -> Iterator[Callable[..., Runtime]]:
    opened: list[Runtime] = []

    def start(variant: str = "f32", slots: int = 4, context: int = CONTEXT) -> Runtime:
        runtime = open_runtime(tiny, variant, TARGET, slots=slots, context=context, threads=1)
        opened.append(runtime)
        return runtime

    yield start
    for runtime in opened:
        runtime.close()


def expect(tokens: list[int]) -> np.ndarray:
    return oracle_logits(tiny_weights(), CONFIG, tokens)[-1]


def one(token: int) -> np.ndarray:
    return np.array([token], dtype=np.int64)


def test_prefill_and_decode_compute_the_model(start: Callable[..., Runtime]) -> None:
    runtime = start()
    assert (runtime.limits.slots, runtime.limits.context) == (4, CONTEXT)
    assert runtime.limits.vocab == CONFIG.vocab
    logits = runtime.prefill(2, PROMPT)
    assert logits.shape == (CONFIG.vocab,)
    assert logits.dtype == np.float32
    tokens = list(PROMPT)
    np.testing.assert_allclose(logits, expect(tokens), atol=1e-4)
    for token in (5, 80, 255):
        tokens.append(token)
        logits = runtime.decode([2], one(token))
        assert logits.shape == (1, CONFIG.vocab)
        np.testing.assert_allclose(logits[0], expect(tokens), atol=1e-4)


def test_a_prompt_in_two_parts_is_the_same_prompt(start: Callable[..., Runtime]) -> None:
    runtime = start()
    whole = runtime.prefill(0, PROMPT)
    runtime.prefill(1, PROMPT[:4])
    np.testing.assert_allclose(runtime.prefill(1, PROMPT[4:]), whole, atol=1e-4)
    both = runtime.decode([0, 1], np.array([7, 7]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)


def test_a_batch_of_unequal_slots_gives_each_its_own_answer(
    start: Callable[..., Runtime],
) -> None:
    runtime = start()
    runtime.prefill(3, PROMPT)
    runtime.prefill(0, OTHER)
    logits = runtime.decode([3, 0], np.array([9, 10]))
    np.testing.assert_allclose(logits[0], expect([*PROMPT, 9]), atol=1e-4)
    np.testing.assert_allclose(logits[1], expect([*OTHER, 10]), atol=1e-4)


def test_slots_join_leave_and_swap_places(start: Callable[..., Runtime]) -> None:
    """Every order of batches gives what each sequence alone would give."""
    runtime = start()
    held: dict[int, list[int]] = {}
    rng = np.random.default_rng(3)
    for batch in ([0], [0, 1], [1, 0], [0, 1, 2], [2], [2, 3, 0], [3, 1], [0, 1, 2, 3], [0]):
        for slot in batch:
            if slot not in held:
                held[slot] = list(rng.integers(0, CONFIG.vocab, 2 + slot))
                runtime.prefill(slot, np.array(held[slot]))
        tokens = rng.integers(0, CONFIG.vocab, len(batch))
        logits = runtime.decode(batch, tokens)
        for row, slot in enumerate(batch):
            held[slot].append(int(tokens[row]))
            np.testing.assert_allclose(logits[row], expect(held[slot]), atol=1e-4)
        if len(batch) == 3:
            runtime.release(batch[0])
            del held[batch[0]]


def test_a_slot_reused_in_the_same_batch_starts_empty(start: Callable[..., Runtime]) -> None:
    runtime = start()
    runtime.prefill(0, PROMPT)
    runtime.prefill(1, OTHER)
    runtime.decode([0, 1], np.array([4, 5]))
    runtime.release(0)
    runtime.prefill(0, OTHER[::-1])
    logits = runtime.decode([0, 1], np.array([6, 7]))
    np.testing.assert_allclose(logits[0], expect([*OTHER[::-1], 6]), atol=1e-4)
    np.testing.assert_allclose(logits[1], expect([*OTHER, 5, 7]), atol=1e-4)


def test_more_prompt_after_decoding_is_seen_by_the_batch(start: Callable[..., Runtime]) -> None:
    runtime = start()
    runtime.prefill(0, OTHER)
    runtime.decode([0], one(8))
    runtime.prefill(0, PROMPT[:3])
    logits = runtime.decode([0], one(9))
    np.testing.assert_allclose(logits[0], expect([*OTHER, 8, *PROMPT[:3], 9]), atol=1e-4)


def test_a_sequence_grows_to_the_end_of_its_slot_and_no_further(
    start: Callable[..., Runtime],
) -> None:
    runtime = start()
    tokens = list(np.random.default_rng(0).integers(0, CONFIG.vocab, CONTEXT))
    runtime.prefill(0, np.array(tokens[:50]))
    runtime.prefill(1, np.array(tokens[:7]))
    for at in range(50, CONTEXT):
        logits = runtime.decode([0, 1], np.array([tokens[at], tokens[at - 43]]))
    np.testing.assert_allclose(logits[0], expect(tokens), atol=2e-4)
    np.testing.assert_allclose(logits[1], expect(tokens[: CONTEXT - 43]), atol=2e-4)
    with pytest.raises(ContextLengthError, match=f"{CONTEXT} of {CONTEXT} tokens"):
        runtime.decode([1, 0], np.array([1, 1]))
    with pytest.raises(ContextLengthError):
        runtime.prefill(1, np.zeros(CONTEXT, np.int64))
    # A refused step changes nothing.
    logits = runtime.decode([1], one(tokens[CONTEXT - 43]))
    np.testing.assert_allclose(logits[0], expect(tokens[: CONTEXT - 42]), atol=2e-4)


def test_logits_are_the_callers_to_keep(start: Callable[..., Runtime]) -> None:
    runtime = start()
    runtime.prefill(0, PROMPT)
    first = runtime.decode([0], one(4))
    before = first.copy()
    runtime.decode([0], one(5))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_answers_do_not_depend_on_the_batch(
    start: Callable[..., Runtime], variant: str
) -> None:
    runtime = start(variant)

    def answer(slots: list[int]) -> list[list[int]]:
        for slot in slots:
            runtime.prefill(slot, PROMPT[: len(PROMPT) - slot])
        last = [int(PROMPT[-1])] * len(slots)
        out: list[list[int]] = [[] for _ in slots]
        for _ in range(12):
            last = [int(row.argmax()) for row in runtime.decode(slots, np.array(last))]
            for row, token in zip(out, last, strict=True):
                row.append(token)
        for slot in slots:
            runtime.release(slot)
        return out

    alone = [answer([slot])[0] for slot in range(4)]
    assert len({tuple(row) for row in alone}) > 1
    together = answer([0, 1, 2, 3])
    if variant == "f32":
        assert together == alone
    else:  # integer kernels round by batch size; the first tokens still agree
        assert [row[0] for row in together] == [row[0] for row in alone]


def test_what_cannot_be_opened_says_why(tiny: Path) -> None:
    def open_with(
        variant: str = "f32", target: Target = TARGET, slots: int = 1, context: int = 8
    ) -> Runtime:
        return open_runtime(tiny, variant, target, slots=slots, context=context, threads=1)

    with pytest.raises(ArtifactError, match="no variant 'f64'"):
        open_with(variant="f64")
    with pytest.raises(InputError, match="onnxruntime:cuda"):
        open_with(target=parse_target("onnxruntime:cuda"))
    with pytest.raises(InputError, match="context 257 is longer than the model's 256"):
        open_with(context=257)
    with pytest.raises(InputError, match="slots is 0"):
        open_with(slots=0)
    with pytest.raises(InputError, match="unknown runtime"):
        open_with(target=Target("fpga"))
    with pytest.raises(ArtifactError, match=r"manifest\.json: no such file"):
        open_runtime(tiny.parent, "f32", TARGET, slots=1, context=8, threads=1)


def test_a_graph_that_cannot_be_loaded_names_the_file(tmp_path: Path) -> None:
    broken = build_tiny_artifact(tmp_path, variants=["f32"])
    path = broken / "f32" / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"f32/model\.onnx: ONNX Runtime cannot load it"):
        open_runtime(broken, "f32", TARGET, slots=1, context=8, threads=1)


@pytest.mark.model
def test_the_real_model_answers(real_artifact: Path) -> None:
    from tokenizers import Tokenizer  # noqa: PLC0415  # only this test needs it

    tokenizer = Tokenizer.from_file(str(real_artifact / "tokenizer.json"))
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = np.array(tokenizer.encode(prompt, add_special_tokens=False).ids)
    runtime = open_runtime(real_artifact, "f32", TARGET, slots=1, context=64, threads=2)
    token = int(runtime.prefill(0, ids).argmax())
    answer = []
    while token != 2 and len(answer) < 12:
        answer.append(token)
        token = int(runtime.decode([0], one(token))[0].argmax())
    runtime.close()
    assert "Paris" in tokenizer.decode(answer)
