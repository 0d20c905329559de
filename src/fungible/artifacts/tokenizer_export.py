"""`tokenizer.json` (Hugging Face `tokenizers`) rebuilt from a GGUF file's metadata."""

from collections.abc import Mapping
from typing import Any

import msgspec
from tokenizers import Tokenizer

from fungible.errors import ArtifactError

# Token types of ggml (`llama.h`, `llama_token_type`).
_CONTROL, _USER_DEFINED = 3, 4
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_SPLIT_DIGITS = {"type": "Digits", "individual_digits": True}
# Pre-tokenizers by the name that llama.cpp gives them (`llama-vocab.cpp`).
_PRE_TOKENIZERS: dict[str, Any] = {
    "smollm": {"type": "Sequence", "pretokenizers": [_SPLIT_DIGITS, _BYTE_LEVEL]},
    "gpt-2": _BYTE_LEVEL,
    "default": _BYTE_LEVEL,
}


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str, vocab: int) -> bytes:
    """The bytes of `tokenizer.json` for a byte-level BPE vocabulary of `vocab` tokens.

    Control tokens (`<|im_start|>` …) become special tokens. Texts are not given a start
    token: the chat template writes what the model expects.

    Raises:
        ArtifactError: The tokenizer is of another kind, or the lists do not fit together.
    """
    model = metadata.get("tokenizer.ggml.model")
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if model != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ArtifactError(
            f"{where}: tokenizer {model!r} with pre-tokenizer {pre!r} is not supported",
            hint=f"supported: 'gpt2' with one of {', '.join(_PRE_TOKENIZERS)}; "
            "or build from the Hugging Face directory, which has its tokenizer.json",
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(tokens, list) or not isinstance(merges, list):
        raise ArtifactError(f"{where}: tokenizer.ggml.tokens or .merges is missing")
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(tokens) != vocab or len(kinds) != vocab or len(set(tokens)) != vocab:
        raise ArtifactError(
            f"{where}: the vocabulary has {len(tokens)} tokens, {len(kinds)} token types "
            f"and {vocab} embeddings; they must be as many, and distinct"
        )
    added = [
        _added_token(index, token, special=kind == _CONTROL)
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
    data = msgspec.json.encode(document)
    check_tokenizer(data, where)
    return data


def _added_token(index: int, token: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": special}


def check_tokenizer(data: bytes, where: str) -> None:
    """Raise `ArtifactError` when the `tokenizers` library refuses the file."""
    try:
        Tokenizer.from_buffer(data)
    except ValueError as error:
        raise ArtifactError(f"{where}: the tokenizer is malformed: {error}") from error
