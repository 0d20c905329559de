"""Spool segments: how records lie in a file, and how a damaged file is read.

A segment is a sequence of frames: the four bytes `MAGIC`, the payload's length and CRC-32
(both `u32`, little-endian), and the payload, one record as JSON. JSON is UTF-8 and never
holds the first byte of `MAGIC`, so a reader that met a broken frame finds the next one by
searching for it.

A segment that a live process writes is `NAME.open`, held by an exclusive `flock`. Whoever
finds it unlocked may seal it: cut the tail that a killed writer left half-written, and
rename it to `NAME.seg`. A sealed segment never changes.
"""

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fungible.contract.events import Record

log = logging.getLogger(__name__)

OPEN, SEALED = ".open", ".seg"
MAGIC = b"\xf5FG1"
_HEAD = struct.Struct("<4sII")
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a segment that hold no record: where, which, and why."""

    offset: int
    data: bytes
    reason: str


def encode_frame(record: Record) -> bytes:
    """One record as a frame."""
    payload = _ENCODER.encode(record)
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def read_frames(data: bytes) -> Iterator[Record | Damage]:
    """Every record of a segment in order, and every stretch of bytes that is none."""
    at = 0
    while at < len(data):
        end = _frame_end(data, at)
        if end is None:
            end = _next_frame(data, at + 1)
            yield Damage(offset=at, data=data[at:end], reason="no whole frame")
        else:
            yield _decode(data, at, end)
        at = end


def read_spool(root: Path) -> Iterator[Record | Damage]:
    """What `read_frames` gives for every segment below a spool's root, also while it is written."""
    for path in sorted(root.glob("*/*")):
        if path.suffix in (OPEN, SEALED):
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # sealed between the listing and now
                data = path.with_suffix(SEALED).read_bytes()
            yield from read_frames(data)


def whole_length(data: bytes) -> int:
    """Length of `data` without the torn tail, if it has one."""
    end = 0
    at = data.find(MAGIC)
    while at >= 0:
        stop = _frame_end(data, at)
        end = stop or end
        at = data.find(MAGIC, stop or at + 1)
    return end


def _frame_end(data: bytes, at: int) -> int | None:
    """End of the valid frame that starts at `at`, or `None`."""
    start = at + _HEAD.size
    if start > len(data):
        return None
    magic, length, crc = _HEAD.unpack_from(data, at)
    end: int = start + length
    if magic != MAGIC or end > len(data) or zlib.crc32(data[start:end]) != crc:
        return None
    return end


def _next_frame(data: bytes, at: int) -> int:
    """Start of the first valid frame at or after `at`, or the end of the data."""
    at = data.find(MAGIC, at)
    while at >= 0 and _frame_end(data, at) is None:
        at = data.find(MAGIC, at + 1)
    return at if at >= 0 else len(data)


def _decode(data: bytes, at: int, end: int) -> Record | Damage:
    try:
        return _DECODER.decode(data[at + _HEAD.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Damage(offset=at, data=data[at:end], reason=f"not a record: {error}")


def seal_orphan(path: Path) -> Path | None:
    """Seal the open segment of a writer that is gone; `None` while somebody writes it.

    A torn tail was never acknowledged to anyone: it is cut, with a warning.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_ino != os.fstat(fd).st_ino:
            return None
        size = os.fstat(fd).st_size
        keep = whole_length(os.pread(fd, size, 0))
        if keep < size:
            log.warning("%s: cut a torn tail of %d bytes", path, size - keep)
            os.ftruncate(fd, keep)
            os.fsync(fd)
        sealed = path.with_suffix(SEALED)
        path.rename(sealed)
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        os.close(fd)
    return sealed
