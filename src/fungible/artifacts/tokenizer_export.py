"""`tokenizer.json` (Hugging Face `tokenizers`) rebuilt from a GGUF file's metadata.

Two kinds: byte-level BPE (`gpt2`), and SentencePiece's BPE with byte fallback (`llama`), which
Llama 2, Mistral, Gemma and Phi-3 have.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from tokenizers import Tokenizer

from fungible.artifacts.tokenizer_sentencepiece import sentencepiece_parts
from fungible.errors import ArtifactError

# Token types of ggml (`llama.h`, `llama_token_type`).
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_SPLIT_DIGITS = {"type": "Digits", "individual_digits": True}
# Words of GPT-4's tokenizer with so many numerals at most in one piece, as the tokenizer.json
# of Llama 3 (three) and of Qwen 2 (one) spell them.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Phi-3's special tokens without `rstrip`.
_PHI3_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")


def _split_words(digits: str) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": _WORDS % digits},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, {**_BYTE_LEVEL, "use_regex": False}]}


class _Pre(msgspec.Struct, frozen=True):
    """What llama.cpp's name of a pre-tokenizer stands for (`llama-vocab.cpp`).

    Attributes:
        splits: The `pre_tokenizer` of `tokenizer.json`.
        normalizer: Its `normalizer`.
        whole_words: A piece that is itself a token is never taken apart (`ignore_merges`).
        starts: Bare texts get the start token where the file does not say.
    """

    splits: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    whole_words: bool = False
    starts: bool = False


_LLAMA3 = _Pre(_split_words(r"\p{N}{1,3}"), whole_words=True, starts=True)
_PRE_TOKENIZERS = {
    "smollm": _Pre({"type": "Sequence", "pretokenizers": [_SPLIT_DIGITS, _BYTE_LEVEL]}),
    "gpt-2": _Pre(_BYTE_LEVEL),
    "default": _Pre(_BYTE_LEVEL),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Pre(_split_words(r"\p{N}"), normalizer={"type": "NFC"}),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str, vocab: int) -> bytes:
    """The bytes of `tokenizer.json` for a vocabulary of `vocab` tokens.

    Control tokens (`<|im_start|>` …) become special tokens. Bare texts are given the start token
    where the file asks for it; of a conversation the chat template writes it.

    Raises:
        ArtifactError: The tokenizer is of another kind, or the lists do not fit together.
    """
    model = metadata.get("tokenizer.ggml.model")
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    if model != "llama" and (model != "gpt2" or pre not in _PRE_TOKENIZERS):
        raise ArtifactError(
            f"{where}: tokenizer {model!r} with pre-tokenizer {pre!r} is not supported",
            hint=f"supported: 'llama', and 'gpt2' with one of {', '.join(_PRE_TOKENIZERS)}; "
            "or build from the Hugging Face directory, which has its tokenizer.json",
        )
    tokens, kinds = _vocabulary(metadata, where, vocab)
    if model == "llama":
        parts, starts = sentencepiece_parts(metadata, tokens, kinds, where), True
    else:
        parts, starts = _byte_level_parts(metadata, tokens, _PRE_TOKENIZERS[pre], where)
    data = msgspec.json.encode(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added_tokens(metadata, tokens, kinds),
            "normalizer": parts["normalizer"],
            "pre_tokenizer": parts["pre_tokenizer"],
            "post_processor": _start_token(metadata, tokens, starts=starts),
            "decoder": parts["decoder"],
            "model": parts["model"],
        }
    )
    check_tokenizer(data, where)
    return data


def _vocabulary(metadata: Mapping[str, Any], where: str, vocab: int) -> tuple[list[str], list[int]]:
    """The tokens with their types."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ArtifactError(f"{where}: tokenizer.ggml.tokens is missing or no list of texts")
    kinds = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if not isinstance(kinds, list):
        raise ArtifactError(f"{where}: tokenizer.ggml.token_type is no list")
    if len(tokens) != vocab or len(kinds) != vocab or len(set(tokens)) != vocab:
        raise ArtifactError(
            f"{where}: the vocabulary has {len(tokens)} tokens, {len(kinds)} token types "
            f"and {vocab} embeddings; they must be as many, and distinct"
        )
    return tokens, kinds


def _byte_level_parts(
    metadata: Mapping[str, Any], tokens: list[str], pre: _Pre, where: str
) -> tuple[dict[str, Any], bool]:
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise ArtifactError(f"{where}: tokenizer.ggml.merges is missing or no list of texts")
    parts = {
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.splits,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.whole_words,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
    return parts, pre.starts


def _start_token(
    metadata: Mapping[str, Any], tokens: list[str], *, starts: bool
) -> dict[str, Any] | None:
    """The post-processor that puts the start token before a bare text, where one is wanted."""
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    asked = metadata.get("tokenizer.ggml.add_bos_token", starts)
    if not asked or not isinstance(bos, int) or not 0 <= bos < len(tokens):
        return None
    token = tokens[bos]
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, start, second],
        "special_tokens": {token: {"id": token, "ids": [bos], "tokens": [token]}},
    }


def _added_tokens(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]
) -> list[dict[str, Any]]:
    """Tokens that are found in a text before anything else is done to it."""
    found = [_CONTROL, _USER_DEFINED]
    phi3 = False
    if metadata.get("tokenizer.ggml.model") == "llama":
        found.append(_UNKNOWN)
        phi3 = metadata.get("general.architecture") == "phi3"
    return [
        # Phi-3's tokens take the white space after them with them; GGUF has no flag for it.
        _added_token(index, token, special=kind != _USER_DEFINED)
        | ({"rstrip": True} if phi3 and token not in _PHI3_KEEPS_SPACE else {})
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in found
    ]


def _added_token(index: int, token: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": special}


def check_tokenizer(data: bytes, where: str) -> None:
    """Raise `ArtifactError` when the `tokenizers` library refuses the file."""
    try:
        Tokenizer.from_buffer(data)
    except ValueError as error:
        raise ArtifactError(f"{where}: the tokenizer is malformed: {error}") from error
