"""SentencePiece's BPE, as a GGUF file lists it, in the terms of Hugging Face `tokenizers`.

SentencePiece joins the two neighbours whose union has the best score. A list of merges in the
order of those scores does the same, which is how transformers converts such models.
"""

import math
from collections.abc import Mapping
from typing import Any

from fungible.errors import ArtifactError

SPACE = "\u2581"
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6
# In letters; SentencePiece itself stops at 16 by default, Gemma at some dozens.
_LONGEST = 1_000


def sentencepiece_parts(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], where: str
) -> dict[str, Any]:
    """`normalizer`, `pre_tokenizer`, `decoder` and `model` of `tokenizer.json`.

    Raises:
        ArtifactError: Scores are missing, or a text could hold what no token stands for.
    """
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ArtifactError(f"{where}: tokenizer.ggml.scores is missing or not one per token")
    if not all(isinstance(score, float) and not math.isnan(score) for score in scores):
        raise ArtifactError(f"{where}: tokenizer.ggml.scores holds what is no number")
    if max(map(len, tokens)) > _LONGEST:
        raise ArtifactError(
            f"{where}: tokenizer.ggml.tokens has a token of over {_LONGEST} letters"
        )
    unknown = next(
        (token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None
    )
    held = {token for token, kind in zip(tokens, kinds, strict=True) if kind == _BYTE}
    every = all(f"<0x{byte:02X}>" in held for byte in range(256))
    if unknown is None and not every:
        raise ArtifactError(
            f"{where}: the tokenizer has neither a token per byte nor an unknown token"
        )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    return {
        "normalizer": _normalizer(prefix=prefix),
        "pre_tokenizer": None,
        "decoder": _decoder(prefix=prefix),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": every,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": _merges(tokens, kinds, scores),
        },
    }


def _normalizer(*, prefix: bool) -> dict[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not prefix:
        return spaces
    # Between control tokens each stretch of text gets one, in llama.cpp as in transformers.
    return {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}


def _decoder(*, prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _merges(tokens: list[str], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, the best score first."""
    plain = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == _NORMAL
    }
    found: list[tuple[float, int, int, int, str, str]] = []
    for token, index in plain.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                found.append((-scores[index], index, plain[left], plain[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
