"""Every runtime keeps the same promises: the same artifact gives the same answers.

A new runtime is one module in the registry; this suite then runs it against an oracle in plain
numpy. Runtimes whose library is not installed are skipped, and the reason says what to install.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fungible.contract import target
from fungible.contract.target import Target
from fungible.engine.runtimes.base import Runtime
from fungible.engine.runtimes.registry import RUNTIMES, open_runtime
from fungible.errors import (
    ArtifactError,
    ContextLengthError,
    InputError,
    MissingExtraError,
    UnavailableError,
)
from support.runtimes import (
    CONTEXT,
    NAMES,
    PACKAGES,
    SLOTS,
    expected,
    greedy,
    installed,
    on_cpu,
    open_or_skip,
    some_tokens,
)
from support.tiny_model import CONFIG, build_tiny_artifact

EXACT = 1e-4


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32"])


@pytest.fixture(scope="module", params=NAMES)
def opened(artifact: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    runtime = open_or_skip(artifact, request.param)
    yield runtime
    runtime.close()


@pytest.fixture
def runtime(opened: Runtime) -> Runtime:
    for slot in range(SLOTS):
        opened.release(slot)
    return opened


def one(token: int) -> np.ndarray:
    return np.array([token], np.int64)


def test_every_runtime_is_tested_here() -> None:
    assert set(RUNTIMES) == set(PACKAGES), "tell tests/support/runtimes.py what it imports"
    assert set(RUNTIMES) == set(target.RUNTIMES), "contract/target.py names every runtime"
    page = Path(__file__).parents[2] / "docs" / "reference" / "runtimes.md"
    told = page.read_text(encoding="utf-8")
    assert [name for name in RUNTIMES if f"| `{name}` |" not in told] == []


def test_it_computes_the_model(runtime: Runtime) -> None:
    assert (runtime.limits.slots, runtime.limits.context) == (SLOTS, CONTEXT)
    assert runtime.limits.vocab == CONFIG.vocab
    text = some_tokens(20)
    logits = runtime.prefill(2, text[:17])
    assert logits.shape == (CONFIG.vocab,)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(text[:17])[-1], atol=EXACT)
    for at in range(17, 20):
        logits = runtime.decode([2], text[at : at + 1])
        assert logits.shape == (1, CONFIG.vocab)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[0], expected(text[: at + 1])[-1], atol=EXACT)


@pytest.mark.parametrize("cut", [1, 15, 16, 40])
def test_a_prompt_in_chunks_is_the_same_prompt(runtime: Runtime, cut: int) -> None:
    text = some_tokens(41, seed=cut)
    runtime.prefill(0, text[:cut])
    np.testing.assert_allclose(runtime.prefill(0, text[cut:]), expected(text)[-1], atol=EXACT)


def test_each_row_of_a_batch_gets_its_own_answer(runtime: Runtime) -> None:
    texts = [some_tokens(count, seed=count) for count in (4, 33, 9, 1)]
    for slot, text in enumerate(texts):
        runtime.prefill(slot, text)
    for turn, order in enumerate(([3, 0, 1], [0, 1, 2, 3], [2], [3, 2], [1, 3, 0, 2])):
        new = some_tokens(len(order), seed=100 + turn)
        logits = runtime.decode(order, new)
        assert logits.shape == (len(order), CONFIG.vocab)
        for row, slot in enumerate(order):
            texts[slot] = np.append(texts[slot], new[row])
            np.testing.assert_allclose(logits[row], expected(texts[slot])[-1], atol=EXACT)


def test_greedy_answers_do_not_depend_on_the_batch(runtime: Runtime) -> None:
    prompts = [some_tokens(6 + 5 * slot, seed=slot) for slot in range(SLOTS)]
    alone = [greedy(runtime, slot, prompt, 12) for slot, prompt in enumerate(prompts)]
    assert len({tuple(answer) for answer in alone}) == SLOTS
    together = [[int(runtime.prefill(slot, text).argmax())] for slot, text in enumerate(prompts)]
    for _ in range(11):
        last = np.array([answer[-1] for answer in together])
        for answer, row in zip(together, runtime.decode(range(SLOTS), last), strict=True):
            answer.append(int(row.argmax()))
    assert together == alone


def test_a_released_slot_starts_empty(runtime: Runtime) -> None:
    text = some_tokens(12, seed=1)
    runtime.prefill(0, some_tokens(40, seed=2))
    runtime.prefill(1, some_tokens(8, seed=3))
    runtime.decode([0, 1], some_tokens(2))
    runtime.release(0)
    np.testing.assert_allclose(runtime.prefill(0, text), expected(text)[-1], atol=EXACT)
    logits = runtime.decode([0, 1], some_tokens(2, seed=4))
    longer = np.append(text, some_tokens(2, seed=4)[0])
    np.testing.assert_allclose(logits[0], expected(longer)[-1], atol=EXACT)


def test_scores_are_the_logits_after_each_token(runtime: Runtime) -> None:
    text = some_tokens(24, seed=5)
    runtime.prefill(1, text[:3])
    logits = runtime.score(1, text[3:20])
    assert logits.shape == (17, CONFIG.vocab)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(text[:20])[3:], atol=EXACT)
    # The slot holds the tokens, as after a prefill.
    np.testing.assert_allclose(runtime.prefill(1, text[20:]), expected(text)[-1], atol=EXACT)


@pytest.mark.parametrize("length", [1, 16, 30])
def test_a_fork_shares_the_start_and_nothing_more(runtime: Runtime, length: int) -> None:
    text, other = some_tokens(30, seed=6), some_tokens(5, seed=7)
    runtime.prefill(0, text)
    runtime.fork(0, 3, length)
    forked = np.concatenate([text[:length], other])
    np.testing.assert_allclose(runtime.prefill(3, other), expected(forked)[-1], atol=EXACT)
    logits = runtime.decode([3, 0], np.array([8, 9]))
    np.testing.assert_allclose(logits[0], expected(np.append(forked, 8))[-1], atol=EXACT)
    np.testing.assert_allclose(logits[1], expected(np.append(text, 9))[-1], atol=EXACT)
    runtime.release(0)
    runtime.prefill(0, other)
    logits = runtime.decode([3], one(10))
    np.testing.assert_allclose(logits[0], expected(np.append(forked, [8, 10]))[-1], atol=EXACT)


def test_a_fork_right_after_decoding_has_the_decoded_tokens(runtime: Runtime) -> None:
    text = some_tokens(9, seed=8)
    runtime.prefill(0, text[:6])
    for token in text[6:]:
        runtime.decode([0], one(token))
    runtime.fork(0, 1, 8)
    logits = runtime.decode([0, 1], np.array([3, int(text[8])]))
    np.testing.assert_allclose(logits[0], expected(np.append(text, 3))[-1], atol=EXACT)
    np.testing.assert_allclose(logits[1], expected(text)[-1], atol=EXACT)


def test_truncated_tokens_are_forgotten(runtime: Runtime) -> None:
    text, other = some_tokens(30, seed=9), some_tokens(4, seed=10)
    runtime.prefill(0, text)
    runtime.prefill(1, text[:5])
    runtime.decode([0, 1], np.array([1, 2]))
    runtime.truncate(0, 11)
    logits = runtime.decode([0, 1], np.array([7, 7]))
    np.testing.assert_allclose(logits[0], expected(np.append(text[:11], 7))[-1], atol=EXACT)
    np.testing.assert_allclose(logits[1], expected(np.append(text[:5], [2, 7]))[-1], atol=EXACT)
    runtime.truncate(0, 2)
    again = np.concatenate([text[:2], other])
    np.testing.assert_allclose(runtime.prefill(0, other), expected(again)[-1], atol=EXACT)
    runtime.truncate(0, 0)
    np.testing.assert_allclose(runtime.prefill(0, other), expected(other)[-1], atol=EXACT)


def test_a_slot_can_be_filled_and_not_overfilled(runtime: Runtime) -> None:
    text = some_tokens(CONTEXT, seed=11)
    runtime.prefill(0, text[:-1])
    runtime.prefill(1, text[:7])
    logits = runtime.decode([0, 1], np.array([text[-1], text[7]]))
    np.testing.assert_allclose(logits[0], expected(text)[-1], atol=EXACT)
    with pytest.raises(ContextLengthError, match=f"{CONTEXT} of {CONTEXT} tokens"):
        runtime.decode([1, 0], np.array([1, 1]))
    with pytest.raises(ContextLengthError):
        runtime.prefill(1, text)
    # A refused step changes nothing, and other rows leave a full slot alone.
    logits = runtime.decode([1, 2], np.array([text[8], text[0]]))
    np.testing.assert_allclose(logits[0], expected(text[:9])[-1], atol=EXACT)
    runtime.fork(0, 3, CONTEXT - 1)
    logits = runtime.decode([3], text[-1:])
    np.testing.assert_allclose(logits[0], expected(text)[-1], atol=EXACT)


def test_logits_are_the_callers_to_keep(runtime: Runtime) -> None:
    first = runtime.prefill(0, some_tokens(5))
    second = runtime.decode([0], one(1))
    copies = first.copy(), second.copy()
    runtime.prefill(1, some_tokens(7, seed=1))
    runtime.decode([0], one(2))
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(second, copies[1])


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_opened_says_why(artifact: Path, name: str) -> None:
    if not installed(name):
        pytest.skip(f"{PACKAGES[name]} is not installed")

    def open_with(variant: str = "f32", device: str = "cpu", context: int = 8) -> Runtime:
        where = Target(name, device)
        return open_runtime(artifact, variant, where, slots=1, context=context, threads=1)

    with pytest.raises(ArtifactError, match="'f64'") as unknown:
        open_with(variant="f64")
    assert "f32" in str(unknown.value.hint)
    with pytest.raises((InputError, UnavailableError), match=f"{name}:abacus"):
        open_with(device="abacus")
    with pytest.raises(InputError, match=r"context 257 is longer than the .*256"):
        open_with(context=257)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_comes_with_its_install_line(
    artifact: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"fungible.engine.runtimes.{name}"
    for module in [module for module in sys.modules if module.startswith(ours)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(MissingExtraError, match=f"{name}:cpu needs {PACKAGES[name]}") as missing:
        open_runtime(artifact, "f32", on_cpu(name), slots=1, context=8, threads=1)
    assert missing.value.hint == f"pip install 'fungible[{RUNTIMES[name][2]}]'"


def test_an_unknown_runtime_is_refused(artifact: Path) -> None:
    with pytest.raises(InputError, match="unknown runtime"):
        open_runtime(artifact, "f32", Target("fpga"), slots=1, context=8, threads=1)


@pytest.mark.model
def test_the_real_model_says_the_same_everywhere(real_artifact: Path) -> None:
    from tokenizers import Tokenizer  # noqa: PLC0415  # only this test needs it

    tokenizer = Tokenizer.from_file(str(real_artifact / "tokenizer.json"))
    ask = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    prompt = np.array(tokenizer.encode(ask, add_special_tokens=False).ids)
    answers = {}
    for name in NAMES:
        if not installed(name):
            continue
        runtime = open_or_skip(real_artifact, name, slots=1, context=128)
        answers[name] = greedy(runtime, 0, prompt, 32)
        runtime.close()
    assert len(answers) > 1, "one runtime alone proves nothing"
    texts = {name: tokenizer.decode(answer) for name, answer in answers.items()}
    assert len(set(texts.values())) == 1, texts
    assert "sky" in next(iter(texts.values()))
    assert len({tuple(answer) for answer in answers.values()}) == 1
