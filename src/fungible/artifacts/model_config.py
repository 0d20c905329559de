"""The shape of a model, as every reader fills it in and every graph is built from it."""

from typing import Literal

import msgspec


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How rotary frequencies are stretched beyond the length of pre-training.

    Attributes:
        kind: `linear` divides every frequency by `factor`; `llama3` only the slow ones (Llama 3.1);
            `longrope` frequency i by `factors[i]` (Ding et al., 2024).
        factor: See `kind`.
        low_freq_factor: `llama3`: turns within `original_context` below which all is divided.
        high_freq_factor: `llama3`: turns above which nothing is.
        original_context: `llama3`: length of pre-training, in tokens.
        factors: `longrope`: one per frequency.
        amplitude: `longrope`: sines and cosines are multiplied by it.
    """

    kind: Literal["linear", "llama3", "longrope"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    factors: tuple[float, ...] = ()
    amplitude: float = 1.0


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder-only transformer: what families differ in is a field here.

    The defaults are those of a plain Llama.

    Attributes:
        family: Architecture by its name in Hugging Face transformers (`model_type`).
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward block.
        heads: Query heads; `kv_heads` of them have keys and values of their own.
        context: Longest sequence that the checkpoint was trained for, in tokens.
        rope_theta: Base of the rotary position embedding (Su et al., 2021).
        rope_scaling: How its frequencies are stretched, if they are.
        local_rope_theta: Base in layers with a window, which are then not stretched; `None`
            where all layers turn alike.
        rotary_dim: Leading dimensions of a head that turn; 0 for all of them.
        window: Tokens that a windowed layer looks back on, its own included; 0 for no windows.
        windowed: Per layer whether it has the window; empty for all of them.
        qkv_bias: Queries, keys and values have a bias.
        qk_norm: Queries and keys are normalised per head before they turn.
        post_norms: What attention and feed-forward add to the stream is normalised as well.
        norm_offset: Normalisation weights are stored as their distance from 1.
        activation: Of the feed-forward block.
        embedding_scale: Embeddings are multiplied by it.
        attention_scale: Attention scores are; `None` for 1 / √head_dim.
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
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    rotary_dim: int = 0
    window: int = 0
    windowed: tuple[bool, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    norm_eps: float
    tied_embeddings: bool
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def has_window(self, layer: int) -> bool:
        """Whether a layer looks back on `window` tokens only."""
        return self.window > 0 and (not self.windowed or self.windowed[layer])

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def turning(self) -> int:
        """Leading dimensions of a head that turn with the position."""
        return self.rotary_dim or self.head_dim


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
