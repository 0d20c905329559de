"""How far a variant's next-token distributions are from the reference's, on a fixed text."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fungible.artifacts.manifest import REFERENCE, Parity
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.session import all_logits, open_session

TOKENS = 128
_THREADS = 2
# Prose, arithmetic, code and a list: short, and written for this purpose.
TEXT = """\
The harbour was quiet when the first boats came in. Anna counted them twice, wrote 17 in her
book, and added 8 for the ones that had left before dawn: 17 + 8 = 25. "Is the water always so
clear in winter?" asked the boy. It is, she said, because cold water holds less life.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

Three things to remember: boil the rice for ten minutes, let it rest, and serve it warm. The
capital of Norway is Oslo, the capital of Spain is Madrid, and the river Danube flows into the
Black Sea. On Monday we travel by train; on Tuesday we walk back along the coast.
"""


def parity_tokens(artifact: Path, config: ModelConfig) -> NDArray[np.int64]:
    """The first `TOKENS` tokens of the text, fewer when the context is shorter."""
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    return np.array(ids[: min(TOKENS, config.context)], dtype=np.int64)


def variant_logits(
    artifact: Path, variant: str, config: ModelConfig, tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits `(S, vocab)` of one variant in ONNX Runtime on the CPU."""
    session = open_session(artifact / variant / "model.onnx", _THREADS)
    return all_logits(session, config, tokens)


def compare(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], tokens: NDArray[np.int64]
) -> Parity:
    """Distance between two arrays of logits `(S, vocab)`, each after one of the tokens `(S,)`."""
    expected, found = _log_softmax(reference), _log_softmax(candidate)
    divergence = (np.exp(expected) * (expected - found)).sum(axis=-1)
    same = expected.argmax(axis=-1) == found.argmax(axis=-1)
    difference = np.abs(reference - candidate)
    return Parity(
        reference=REFERENCE,
        tokens=len(reference),
        mean_kl=float(divergence.mean()),
        top1_agreement=float(same.mean()),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        perplexity=_perplexity(found, tokens),
        reference_perplexity=_perplexity(expected, tokens),
    )


def _perplexity(log_shares: NDArray[np.float64], tokens: NDArray[np.int64]) -> float:
    """Of the tokens after the first, each given those before it."""
    likelihoods = log_shares[np.arange(len(tokens) - 1), tokens[1:]]
    return float(np.exp(-likelihoods.mean())) if len(tokens) > 1 else 1.0


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
