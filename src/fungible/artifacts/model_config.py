"""The shape of a model, as every reader fills it in and every graph is built from it."""

from typing import Literal

import msgspec


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder-only transformer of the Llama family.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward block.
        heads: Query heads; `kv_heads` of them have keys and values of their own.
        context: Longest sequence that the checkpoint was trained for, in tokens.
        rope_theta: Base of the rotary position embedding (Su et al., 2021).
        tied_embeddings: The output head is the embedding table.
        bos_id: Token that starts a text, where the checkpoint names one.
        eos_ids: Tokens that end an answer.
    """

    family: str = "llama"
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    norm_eps: float
    tied_embeddings: bool
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedding model of the BERT class has beside its `ModelConfig`.

    Attributes:
        pooling: How token vectors become one: their mean, or the first token's.
        normalise: Embeddings have length 1.
        token_types: Rows of the segment table; 0 without one.
        activation: Of the feed-forward block.
    """

    pooling: Literal["mean", "cls"] = "mean"
    normalise: bool = True
    token_types: int = 2
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
