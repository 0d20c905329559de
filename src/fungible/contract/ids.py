"""Identifiers that sort by time (RFC 9562, UUID version 7)."""

import os
import struct
import time
from collections.abc import Iterator

_WORDS = struct.Struct("<Q")
_WORDS_AT_ONCE = 512


class _Entropy:
    """The system's random numbers, fetched many at a time: one call each costs as much as an id."""

    def __init__(self) -> None:
        self._words: Iterator[tuple[int]] = iter(())
        # A child must not hand out what its parent hands out, too.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._words = iter(())

    def word(self) -> int:
        """64 random bits, never the same ones twice, whichever thread asks."""
        for (word,) in self._words:
            return word
        # Two threads may both come here: one's words go unused, which is no loss.
        words = _WORDS.iter_unpack(os.urandom(_WORDS_AT_ONCE * _WORDS.size))
        (word,) = next(words)
        self._words = words
        return int(word)


_entropy = _Entropy()


def new_id(prefix: str = "") -> str:
    """A 32-digit hexadecimal UUIDv7, with `prefix` before it (`"att_"`, `"req_"`).

    The twelve bits after the version are the fraction of the millisecond (section 6.2, method 3),
    so that identifiers made one after the other sort that way.
    """
    ms, ns = divmod(time.time_ns(), 1_000_000)
    value = (ms & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (ns * 4096 // 1_000_000) << 64
    value |= 0b10 << 62 | _entropy.word() & ((1 << 62) - 1)
    return f"{prefix}{value:032x}"
