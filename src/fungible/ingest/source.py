"""Reads an export record by record: lines of JSON, an array, or one document; also compressed."""

import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import BinaryIO

import msgspec

from fungible.errors import MissingExtraError

READ_BYTES = 1 << 20
MOST_LINE = 64 << 20
MOST_DOCUMENT = 128 << 20


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One record's bytes and where they lie; with a `fault`, why there is none."""

    place: str
    data: bytes
    fault: str = ""


class Damaged(Exception):  # noqa: N818  # never leaves this module
    """What is compressed cannot be read on."""


def items(stream: BinaryIO, name: str, seen: Callable[[bytes], object] = len) -> Iterator[Item]:
    """Every record of `stream`, in order.

    Blank lines are none. A file that begins with `[` is one JSON array; one whose first line
    is not complete by itself is one document, if it is JSON as a whole.

    Args:
        stream: The file as it lies on disk.
        name: Its name; `.gz` and `.zst` are decompressed.
        seen: Is told of what was read, before decompression.

    Raises:
        MissingExtraError: It is `.zst`, and `zstandard` is not installed.
    """
    lines = _lines(_expand(_chunks(stream, seen), name))
    first = next(lines, None)
    if first is None:
        return
    head = first.data.lstrip()[:1]
    whole = not first.fault and (head == b"[" or (head == b"{" and not _is_json(first.data)))
    if not whole:
        yield from itertools.chain([first], lines)
        return
    kept, size = [first], len(first.data)
    for line in lines:
        kept.append(line)
        size += len(line.data)
        if line.fault or size > MOST_DOCUMENT:
            break
    yield from _document(kept, head == b"[", size) or itertools.chain(kept, lines)


def messages(stream: BinaryIO, name: str, seen: Callable[[bytes], object] = len) -> Iterator[Item]:
    """Every protobuf message of `stream`: one, or each after its length.

    The collector's file exporter writes four bytes of length, big-endian, before each.
    """
    chunks = _expand(_chunks(stream, seen), name)
    buffer, number, framed = b"", 0, False
    try:
        for chunk in chunks:
            buffer += chunk
            framed = framed or buffer[:1] == b"\0"
            while framed and len(buffer) >= 4:
                size = int.from_bytes(buffer[:4], "big")
                if size > MOST_LINE or len(buffer) < 4 + size:
                    break
                number += 1
                yield Item(place=f"message {number}", data=buffer[4 : 4 + size])
                buffer = buffer[4 + size :]
            if len(buffer) > MOST_LINE + 4:
                fault = f"the message is longer than {MOST_LINE} bytes"
                yield Item(place=f"message {number + 1}", data=buffer[:1000], fault=fault)
                return
    except Damaged as error:
        yield Item(place=f"message {number + 1}", data=b"", fault=str(error))
        return
    if buffer:
        fault = "the message is cut off" if framed else ""
        yield Item(place=f"message {number + 1}", data=buffer, fault=fault)


def _document(kept: list[Item], array: bool, size: int) -> list[Item]:
    """The records of a document; none when these lines are better read by themselves."""
    if kept[-1].fault:
        return [kept[-1]] if array else []
    if size > MOST_DOCUMENT:
        fault = f"one array of more than {MOST_DOCUMENT} bytes; write a record a line instead"
        return [Item(place="line 1", data=b"", fault=fault)] if array else []
    data = b"\n".join(line.data for line in kept)
    try:
        if not array:
            msgspec.json.decode(data, type=msgspec.Raw)
            return [Item(place="line 1", data=data)]
        found = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not array or all(_is_json(line.data) for line in kept[:2]):
            return []
        fault = f"the array is not JSON: {error}"
        return [Item(place="line 1", data=data[:1000], fault=fault)]
    return [Item(place=f"item {at}", data=bytes(one)) for at, one in enumerate(found, 1)]


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _lines(chunks: Iterator[bytes]) -> Iterator[Item]:
    number, rest, skipping = 0, b"", False
    while True:
        try:
            chunk = next(chunks, None)
        except Damaged as error:
            yield Item(place=f"line {number + 1}", data=rest, fault=str(error))
            return
        if chunk is None:
            break
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            number += 1
            if piece.strip() and not skipping:
                yield Item(place=f"line {number}", data=piece)
            skipping = False
        if len(rest) > MOST_LINE or skipping:
            if not skipping:
                fault = f"the line is longer than {MOST_LINE} bytes"
                yield Item(place=f"line {number + 1}", data=rest[:1000], fault=fault)
            rest, skipping = b"", True
    if rest.strip() and not skipping:
        yield Item(place=f"line {number + 1}", data=rest)


def _chunks(stream: BinaryIO, seen: Callable[[bytes], object]) -> Iterator[bytes]:
    while data := stream.read(READ_BYTES):
        seen(data)
        yield data


def _expand(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    kind = PurePath(name).suffix.lower()
    if kind in (".gz", ".gzip"):
        return _members(chunks, lambda: zlib.decompressobj(31), zlib.error)
    if kind in (".zst", ".zstd"):
        try:
            import zstandard  # noqa: PLC0415  # only where it is needed
        except ImportError as error:
            raise MissingExtraError(
                f"{name}: zstandard is not installed", hint="pip install 'fungible[ledger]'"
            ) from error
        make = zstandard.ZstdDecompressor().decompressobj
        return _members(chunks, make, zstandard.ZstdError)
    return chunks


def _members(
    chunks: Iterator[bytes], make: Callable[[], object], refusal: type[Exception]
) -> Iterator[bytes]:
    """What one compressed stream after the other holds."""
    decoder: object | None = None
    for chunk in chunks:
        data = chunk
        while data:
            decoder = decoder or make()
            try:
                yield decoder.decompress(data)  # type: ignore[attr-defined]
            except refusal as error:
                raise Damaged(f"the compressed file is damaged: {error}") from error
            data = b""
            if decoder.eof:  # type: ignore[attr-defined]
                data, decoder = decoder.unused_data, None  # type: ignore[attr-defined]
    if decoder is not None:
        raise Damaged("the compressed file is cut off")
