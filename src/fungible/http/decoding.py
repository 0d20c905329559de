"""Compressed bodies, of servers that compress although they were asked not to."""

import zlib
from collections.abc import Callable

from fungible.http.errors import MalformedAnswerError

# A piece of at most 64 KiB that grows beyond this is no answer of a language model.
MOST_FROM_ONE_PIECE = 32 << 20
_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 47}


def decoder_of(encoding: str) -> Callable[[bytes], bytes] | None:
    """Decodes the pieces of a body; `None` if there is nothing to decode.

    Raises:
        MalformedAnswerError: An encoding that we never accept.
    """
    if encoding in ("", "identity"):
        return None
    if encoding not in _BITS:
        raise MalformedAnswerError(f"the answer is encoded as {encoding!r}")
    inflate = zlib.decompressobj(_BITS[encoding])

    def decode(piece: bytes) -> bytes:
        try:
            plain = inflate.decompress(piece, MOST_FROM_ONE_PIECE)
        except zlib.error as error:
            raise MalformedAnswerError(f"the answer is no valid {encoding}: {error}") from error
        if inflate.unconsumed_tail:
            raise MalformedAnswerError("the answer grows too much when it is decompressed")
        return plain

    return decode
