"""A prompt without a conversation: its tokens, its text, and where each token starts in it."""

import codecs
from collections.abc import Sequence

import msgspec

from fungible.engine.detokenizer import Pieces
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import RequestError

_UTF8 = codecs.getincrementaldecoder("utf-8")


class BarePrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt of `/v1/completions`.

    Attributes:
        text: As the client wrote it, or what its tokens spell, control tokens included.
        added: How many of the first tokens the tokenizer put there itself; the text lacks them.
        continues: Whether an answer goes on in a text; after control tokens alone it starts one.
    """

    tokens: tuple[int, ...]
    text: str
    added: int = 0
    continues: bool = False

    def starts(self, pieces: Pieces) -> list[int]:
        """Where each token starts in `text`, in characters."""
        own = self.tokens[self.added :]
        spelled, starts = _spell(pieces, own)
        # A word's mark before the first word, unless the text has that space itself.
        marked = pieces.strips_first_space and spelled.startswith(" ") and spelled != self.text
        skipped = int(marked)
        end = len(self.text)
        return [0] * self.added + [min(max(at - skipped, 0), end) for at in starts]


def read_prompt(value: str | list[int], tokenizer: ChatTokenizer, vocab: int) -> BarePrompt:
    """Tokenise a text, or spell tokens.

    Raises:
        RequestError: It is empty, or names a token that the model does not have.
    """
    if isinstance(value, str):
        tokens, added = tokenizer.encode_bare(value)
        if not tokens:
            raise RequestError(
                "prompt is empty; the model needs at least one token to go on from",
                param="prompt",
            )
        shown = _shows(tokenizer.pieces, tokens)
        return BarePrompt(tokens=tuple(tokens), text=value, added=added, continues=shown)
    for token in value:
        if not 0 <= token < vocab:
            raise RequestError(
                f"prompt names token {token}; this model's tokens are 0 to {vocab - 1}",
                param="prompt",
            )
    text, _ = spell(tokenizer.pieces, value)
    return BarePrompt(tokens=tuple(value), text=text, continues=_shows(tokenizer.pieces, value))


def spell(pieces: Pieces, tokens: Sequence[int]) -> tuple[str, list[int]]:
    """The text of tokens, control tokens spelled out, and where each starts in it.

    A token that goes on with a character starts where the character does.
    """
    text, starts = _spell(pieces, tokens)
    if pieces.strips_first_space and text.startswith(" "):
        return text[1:], [max(at - 1, 0) for at in starts]
    return text, starts


def _shows(pieces: Pieces, tokens: Sequence[int]) -> bool:
    return any(pieces.shown(token) for token in tokens)


def _spell(pieces: Pieces, tokens: Sequence[int]) -> tuple[str, list[int]]:
    """The same, with the space that SentencePiece puts before a text's first word."""
    decoder = _UTF8(errors="replace")
    text, starts, length = [], [], 0
    for token in tokens:
        starts.append(length)
        text.append(decoder.decode(pieces.spelled(token)))
        length += len(text[-1])
    text.append(decoder.decode(b"", final=True))
    return "".join(text), starts
