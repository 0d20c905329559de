"""Tokens back to text, one at a time, without ever showing half a character.

Each token stands for a fixed string of bytes. A stream of tokens is therefore a stream of
bytes, and an incremental UTF-8 decoder gives the text: bytes of an unfinished character wait
for the next token, and are dropped when the answer ends. Bytes that can never become UTF-8
give U+FFFD, as in the `tokenizers` library's own decoder.
"""

import codecs
import re
from collections.abc import Sequence
from typing import Any

from fungible.errors import ArtifactError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UTF8 = codecs.getincrementaldecoder("utf-8")


class Pieces:
    """The bytes behind each token of a vocabulary.

    Args:
        vocabulary: Text of each token as the vocabulary spells it; `None` where an id is unused.
        special: Ids of control tokens, which never show in an answer.
        decoder: The `decoder` object of `tokenizer.json`.
        where: The file, for error messages.

    Raises:
        ArtifactError: The decoder is neither byte-level nor SentencePiece-like.
    """

    def __init__(
        self,
        vocabulary: Sequence[str | None],
        special: frozenset[int],
        decoder: dict[str, Any] | None,
        where: str,
    ) -> None:
        kinds = _decoder_kinds(decoder)
        if "ByteLevel" in kinds:
            spell, self.strips_first_space = _byte_level, False
        elif kinds & {"Metaspace", "ByteFallback"}:
            spell, self.strips_first_space = _sentence_piece, bool(kinds & {"Metaspace", "Strip"})
        else:
            names = ", ".join(sorted(kinds)) or "none"
            raise ArtifactError(
                f"{where}: cannot stream text through the tokenizer's decoder ({names})",
                hint="ByteLevel, Metaspace and ByteFallback decoders are supported",
            )
        self._text = [text or "" for text in vocabulary]
        self._bytes = [spell(text) for text in self._text]
        self._special = special

    def shown(self, token: int) -> bytes:
        """Bytes that the token adds to an answer; none for control tokens and unused ids."""
        if token in self._special or token >= len(self._bytes):
            return b""
        return self._bytes[token]

    def spelled(self, token: int) -> bytes:
        """The token by itself, control tokens included, for log-probabilities."""
        if token in self._special:
            return self._text[token].encode()
        return self.shown(token)


class Detokenizer:
    """The text of one answer, token by token.

    SentencePiece marks the start of every word, also of a text's first, with a space that is no
    part of the text; it is left out, unless the answer goes on in another text.

    Args:
        continues: Whether it does.
    """

    def __init__(self, pieces: Pieces, *, continues: bool = False) -> None:
        self._pieces = pieces
        self._decoder = _UTF8(errors="replace")
        self._at_start = pieces.strips_first_space and not continues

    def push(self, token: int) -> str:
        """Text that this token completes; may be empty."""
        data = self._pieces.shown(token)
        if self._at_start and data:
            data = data.removeprefix(b" ")
            self._at_start = False
        return self._decoder.decode(data)


def _decoder_kinds(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    if decoder.get("type") == "Sequence":
        return {str(part.get("type")) for part in decoder.get("decoders", [])}
    return {str(decoder.get("type"))}


def _byte_level_alphabet() -> dict[str, int]:
    """Printable stand-ins for the 256 bytes (GPT-2's `bytes_to_unicode`, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + at): byte for at, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _byte_level(text: str) -> bytes:
    try:
        return bytes([_ALPHABET[char] for char in text])
    except KeyError:
        return text.encode()


def _sentence_piece(text: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("\u2581", " ").encode()
