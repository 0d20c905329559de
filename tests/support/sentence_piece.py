"""A tokenizer of the SentencePiece kind, as Llama 2 has it."""

from tokenizers import Tokenizer, decoders, models


def sentence_piece() -> Tokenizer:
    """Bytes, and a few words; it marks the start of a word by a space that a text lacks."""
    vocab = {"<s>": 0, "▁hello": 1, "▁": 2, "w": 3, **{f"<0x{b:02X}>": 4 + b for b in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer
