import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fungible.artifacts.tensors import TensorFile
from fungible.contract.target import Target, parse_target
from fungible.engine.runtimes.base import Logits, Runtime
from fungible.engine.runtimes.registry import open_runtime
from fungible.engine.runtimes.xla import XLARuntime
from fungible.errors import ArtifactError, ContextLengthError, InputError, UnavailableError
from support.tiny_model import CONFIG, build_tiny_artifact

CPU = parse_target("xla:cpu")
SLOTS, CONTEXT = 3, 48
EXACT = 1e-4


def open_tiny(artifact: Path, **changes: Any) -> XLARuntime:
    options = {"slots": SLOTS, "context": CONTEXT, "threads": 2} | changes
    return XLARuntime(artifact, "f32", CPU, **options)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32"])


@pytest.fixture(scope="module")
def opened(artifact: Path) -> Iterator[XLARuntime]:
    runtime = open_tiny(artifact)
    yield runtime
    runtime.close()


@pytest.fixture
def runtime(opened: XLARuntime) -> XLARuntime:
    for slot in range(SLOTS):
        opened.release(slot)
    return opened


@pytest.fixture(scope="module")
def weights(artifact: Path) -> dict[str, NDArray[np.float32]]:
    file = TensorFile(artifact / "f32" / "model.safetensors")
    return {name: file.read(name) for name in file.regions}


def some_tokens(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab, count)


def reference(weights: Mapping[str, NDArray[np.float32]], tokens: NDArray[np.int64]) -> Logits:
    """Llama in float64, one plain line per equation; logits `(vocab,)` after the last token."""
    count, half = len(tokens), CONFIG.head_dim // 2
    angles = np.arange(count)[:, None] * CONFIG.rope_theta ** (-np.arange(half) / half)

    def norm(x: NDArray[Any], name: str) -> NDArray[Any]:
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + CONFIG.norm_eps) * weights[name]

    def rotate(x: NDArray[Any]) -> NDArray[Any]:
        pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
        return np.concatenate([pairs.real, pairs.imag], -1)

    x = weights["model.embed_tokens.weight"][tokens].astype(np.float64)
    for layer in range(CONFIG.layers):
        part = f"model.layers.{layer}.{{}}.weight".format
        h = norm(x, part("input_layernorm"))
        q, k, v = (
            (h @ weights[part(f"self_attn.{name}_proj")].T).reshape(count, -1, CONFIG.head_dim)
            for name in "qkv"
        )
        group = CONFIG.heads // CONFIG.kv_heads
        k, v = np.repeat(rotate(k), group, 1), np.repeat(v, group, 1)
        scores = np.einsum("qhd,khd->hqk", rotate(q), k) / np.sqrt(CONFIG.head_dim)
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1)
        x = x + mixed @ weights[part("self_attn.o_proj")].T
        h = norm(x, part("post_attention_layernorm"))
        gate = h @ weights[part("mlp.gate_proj")].T
        inner = gate / (1 + np.exp(-gate)) * (h @ weights[part("mlp.up_proj")].T)
        x = x + inner @ weights[part("mlp.down_proj")].T
    return norm(x[-1], "model.norm.weight") @ weights["model.embed_tokens.weight"].T


@pytest.mark.parametrize("count", [1, 15, 16, 17, CONTEXT])
def test_prefill_matches_plain_numpy(
    runtime: XLARuntime, weights: dict[str, NDArray[np.float32]], count: int
) -> None:
    tokens = some_tokens(count)
    logits = runtime.prefill(1, tokens)
    assert logits.shape == (CONFIG.vocab,)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(weights, tokens), atol=EXACT)


def test_decode_of_several_slots_matches_plain_numpy(
    runtime: XLARuntime, weights: dict[str, NDArray[np.float32]]
) -> None:
    texts = [some_tokens(5, seed=1), some_tokens(21, seed=2), some_tokens(9, seed=3)]
    for slot, text in enumerate(texts):
        runtime.prefill(slot, text)
    for turn in range(3):
        order = [2, 0] if turn == 1 else [1, 2, 0]
        new = some_tokens(len(order), seed=10 + turn)
        logits = runtime.decode(order, new)
        assert logits.shape == (len(order), CONFIG.vocab)
        for row, slot in enumerate(order):
            texts[slot] = np.append(texts[slot], new[row])
            np.testing.assert_allclose(logits[row], reference(weights, texts[slot]), atol=EXACT)


def test_two_chunks_are_one(runtime: XLARuntime) -> None:
    tokens = some_tokens(30)
    whole = runtime.prefill(0, tokens)
    runtime.prefill(1, tokens[:11])
    np.testing.assert_allclose(runtime.prefill(1, tokens[11:]), whole, atol=EXACT)


def test_a_step_leaves_other_slots_alone(runtime: XLARuntime) -> None:
    """The full slot is the interesting one: there is no spare position for padding to hit."""
    full, short = some_tokens(CONTEXT), some_tokens(7, seed=5)
    runtime.prefill(0, full[:-1])
    runtime.decode([0], full[-1:])
    runtime.prefill(1, short)
    before = [np.asarray(cache)[0].copy() for cache in (*runtime._keys, *runtime._values)]
    alone = runtime.decode([1], some_tokens(1))
    runtime.decode([1, 2], some_tokens(2))
    after = [np.asarray(cache)[0] for cache in (*runtime._keys, *runtime._values)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    runtime.release(1)
    runtime.release(0)
    runtime.prefill(1, short)
    np.testing.assert_allclose(runtime.decode([1], some_tokens(1)), alone, atol=EXACT)


def test_padding_rows_do_not_reach_the_slots_they_borrow(artifact: Path) -> None:
    """Two rows run as four: the others are real slots in use."""
    runtime = open_tiny(artifact, slots=5, context=20)
    texts = [some_tokens(6 + slot, seed=slot) for slot in range(5)]
    for slot, text in enumerate(texts):
        runtime.prefill(slot, text)
    runtime.decode([4, 0], some_tokens(2))
    kept = runtime.decode([1, 2, 3], some_tokens(3))
    for slot in range(5):
        runtime.release(slot)
    for slot in (1, 2, 3):
        runtime.prefill(slot, texts[slot])
    np.testing.assert_allclose(runtime.decode([1, 2, 3], some_tokens(3)), kept, atol=EXACT)
    runtime.close()


def test_release_empties_a_slot(runtime: XLARuntime) -> None:
    first = runtime.prefill(0, some_tokens(12, seed=1))
    runtime.release(0)
    runtime.prefill(0, some_tokens(40, seed=2))
    runtime.release(0)
    np.testing.assert_array_equal(runtime.prefill(0, some_tokens(12, seed=1)), first)


def test_logits_stay_valid_after_later_steps(runtime: XLARuntime) -> None:
    logits = runtime.prefill(0, some_tokens(5))
    copy = logits.copy()
    runtime.decode([0], some_tokens(1))
    np.testing.assert_array_equal(logits, copy)


def test_cache_is_written_in_place(runtime: XLARuntime) -> None:
    def addresses() -> list[int]:
        return [cache.unsafe_buffer_pointer() for cache in (*runtime._keys, *runtime._values)]

    runtime.prefill(0, some_tokens(20))
    before = addresses()
    runtime.prefill(1, some_tokens(20))
    runtime.decode([0, 1], some_tokens(2))
    assert addresses() == before


def test_weights_stay_in_the_mapped_file(runtime: XLARuntime, artifact: Path) -> None:
    path = str(artifact / "f32" / "model.safetensors")
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(path)
    ]
    for weight in runtime._weights:
        address = weight.unsafe_buffer_pointer()
        assert any(start <= address < end for start, end in spans)


def test_overflow_is_an_error_that_changes_nothing(runtime: XLARuntime) -> None:
    with pytest.raises(ContextLengthError, match=f"0 of {CONTEXT}"):
        runtime.prefill(0, some_tokens(CONTEXT + 1))
    runtime.prefill(0, some_tokens(CONTEXT - 1))
    with pytest.raises(ContextLengthError, match="2 more"):
        runtime.prefill(0, some_tokens(2))
    runtime.prefill(1, some_tokens(3))
    runtime.decode([0, 1], some_tokens(2))
    with pytest.raises(ContextLengthError, match=f"slot 0 holds {CONTEXT} of {CONTEXT}"):
        runtime.decode([1, 0], some_tokens(2))
    runtime.decode([1], some_tokens(1))


@pytest.mark.parametrize(
    ("slots", "count"), [([], 0), ([0, 0], 2), ([0, 1], 1), ([SLOTS], 1), ([-1], 1)]
)
def test_malformed_decode_is_an_error(runtime: XLARuntime, slots: list[int], count: int) -> None:
    with pytest.raises(InputError):
        runtime.decode(slots, some_tokens(count))


def test_empty_prompt_is_an_error(runtime: XLARuntime) -> None:
    with pytest.raises(InputError, match="no tokens"):
        runtime.prefill(0, some_tokens(0))


def test_variant_without_a_program_says_what_runs(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="int8") as caught:
        XLARuntime(artifact, "int8", CPU, slots=1, context=16, threads=1)
    assert caught.value.hint == "variants that xla:cpu runs: f32"


def test_context_beyond_the_model_is_an_error(artifact: Path) -> None:
    with pytest.raises(InputError, match=str(CONFIG.context)):
        open_tiny(artifact, context=CONFIG.context + 1)


def test_missing_device_names_what_to_install(artifact: Path) -> None:
    for device, hint in (("tpu", "jax[tpu]"), ("abacus", "PJRT plugin for abacus")):
        target = Target("xla", device)
        with pytest.raises(UnavailableError, match=device) as caught:
            XLARuntime(artifact, "f32", target, slots=1, context=16, threads=1)
        assert hint in caught.value.hint
    open_tiny(artifact, slots=1, context=8).close()


@pytest.mark.parametrize(
    ("name", "content"), [("step.jax_export", b"not a program"), ("step.jax_export", None)]
)
def test_damaged_program_is_an_artifact_error(
    artifact: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    copy = tmp_path / "store" / "tiny"
    shutil.copytree(artifact, copy)
    (copy / "f32" / name).unlink()
    if content is not None:
        (copy / "f32" / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        open_tiny(copy)


def test_weights_of_another_model_are_refused(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store" / "tiny"
    shutil.copytree(artifact, copy)
    path = copy / "f32" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"layers.1.mlp.up_proj", b"layers.7.mlp.up_proj"))
    with pytest.raises(ArtifactError, match=r"layers\.1\.mlp\.up_proj"):
        open_tiny(copy)


def test_store_that_cannot_be_written_still_runs(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store" / "tiny"
    shutil.copytree(artifact, copy)
    (copy.parent / ".cache").write_text("in the way")
    runtime = open_tiny(copy, slots=1, context=8)
    assert np.isfinite(runtime.prefill(0, some_tokens(3))).all()
    runtime.close()


SECOND_START = """
import sys
from pathlib import Path
import numpy as np
from fungible.contract.target import parse_target
from fungible.engine.runtimes.registry import open_runtime
runtime = open_runtime(
    Path(sys.argv[1]), "f32", parse_target("xla:cpu"), slots=1, context=8, threads=1
)
print(runtime.prefill(0, np.arange(5)).argmax())
runtime.close()
traced = {"fungible.artifacts.decoder_step", "fungible.artifacts.stablehlo"} & set(sys.modules)
assert not traced, traced
"""


def test_second_start_compiles_nothing_and_never_traces_the_model(
    artifact: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "store" / "tiny"
    shutil.copytree(artifact, copy)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}

    def start() -> tuple[str, set[str]]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SECOND_START, str(copy)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, "")
        kept = copy.parent.rglob(".cache/xla/*/jit_step-*-cache")
        return done.stdout, {path.name for path in kept}

    first, kept = start()
    assert len(kept) == 1
    assert start() == (first, kept)


def greedy(runtime: Runtime, prompt: NDArray[np.int64], count: int) -> list[int]:
    answer = [int(runtime.prefill(0, prompt).argmax())]
    while len(answer) < count:
        answer.append(int(runtime.decode([0], np.array(answer[-1:]))[0].argmax()))
    runtime.release(0)
    return answer


@pytest.mark.model
def test_real_model_answers_as_under_onnx_runtime(real_artifact: Path) -> None:
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(real_artifact / "tokenizer.json"))
    prompts = [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in ("Why is the sky blue?", "Name three primes.", "Translate: good morning")
    ]
    answers = {}
    for name in ("xla:cpu", "onnxruntime:cpu"):
        target = parse_target(name)
        runtime = open_runtime(real_artifact, "f32", target, slots=1, context=256, threads=2)
        answers[name] = [
            greedy(runtime, np.array(tokenizer.encode(prompt).ids), 24) for prompt in prompts
        ]
        runtime.close()
    assert answers["xla:cpu"] == answers["onnxruntime:cpu"]
