"""Content codings of requests and answers, a piece at a time."""

import zlib
from typing import Any

from fungible.control.clickhouse.failures import ClickHouseError

_WINDOW = {"gzip": 31, "deflate": 15}
_NAMES = ("zstd", "lz4", "gzip", "deflate")


class Decoder:
    """Undoes one content coding.

    Args:
        coding: Value of `Content-Encoding`; empty and `identity` leave bytes as they are.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding.strip().lower()
        self._begun = False
        self._engine: Any = None  # the libraries have no types
        if self._coding not in ("", "identity"):
            self._engine = _decompressor(self._coding)

    def add(self, data: bytes) -> bytes:
        """What `data` decodes to."""
        if self._engine is None or not data:
            return data
        self._begun = True
        try:
            found = self._engine.decompress(data)
        except Exception as error:  # each library has its own
            raise ClickHouseError(354, f"the body is not {self._coding}", status=400) from error
        assert isinstance(found, bytes)  # noqa: S101  # all of them say so
        return found

    def end(self) -> None:
        """Raises where the body ends too early."""
        if self._begun and not self._engine.eof:
            raise ClickHouseError(354, f"the body ends inside its {self._coding}", status=400)


class Encoder:
    """Applies one content coding; `identity` is none."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._engine: Any = None
        self._begin = b""
        if coding in _WINDOW:
            self._engine = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[coding])
        elif coding == "zstd":
            import zstandard  # noqa: PLC0415  # comes with clickhouse-connect

            self._engine = zstandard.ZstdCompressor(level=1).compressobj()
        elif coding == "lz4":
            import lz4.frame  # noqa: PLC0415  # comes with clickhouse-connect

            self._engine = lz4.frame.LZ4FrameCompressor()
            self._begin = self._engine.begin()

    def add(self, data: bytes) -> bytes:
        """What `data` adds to the answer."""
        if self._engine is None:
            return data
        begin, self._begin = self._begin, b""
        return begin + bytes(self._engine.compress(data))

    def end(self) -> bytes:
        """The rest of the answer."""
        if self._engine is None:
            return b""
        begin, self._begin = self._begin, b""
        return begin + bytes(self._engine.flush())


def best_coding(accepted: str) -> str:
    """The coding of an answer: the first that both sides know, else `identity`.

    Args:
        accepted: Value of `Accept-Encoding`. A weight of 0 refuses; other weights do not count.
    """
    for part in accepted.split(","):
        name, _, weight = part.partition(";")
        refused = weight.replace(" ", "").lower() in ("q=0", "q=0.0", "q=0.00", "q=0.000")
        if name.strip().lower() in _NAMES and not refused:
            return name.strip().lower()
    return "identity"


def _decompressor(coding: str) -> Any:  # noqa: ANN401  # the libraries have no types
    if coding in _WINDOW:
        return zlib.decompressobj(_WINDOW[coding])
    if coding == "zstd":
        import zstandard  # noqa: PLC0415

        return zstandard.ZstdDecompressor().decompressobj()
    if coding == "lz4":
        import lz4.frame  # noqa: PLC0415

        return lz4.frame.LZ4FrameDecompressor()
    raise ClickHouseError(
        48, f"Content-Encoding {coding[:32]!r} is not known", name="UNKNOWN_COMPRESSION_METHOD"
    )
