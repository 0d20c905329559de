"""Identifiers that sort by time (RFC 9562, UUID version 7)."""

import os
import time


def new_id(prefix: str = "") -> str:
    """A 32-digit hexadecimal UUIDv7, with `prefix` before it (`"att_"`, `"req_"`)."""
    ms = time.time_ns() // 1_000_000
    rand = int.from_bytes(os.urandom(10), "big")
    value = (ms & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (rand >> 64 & 0xFFF) << 64
    value |= 0b10 << 62 | rand & ((1 << 62) - 1)
    return f"{prefix}{value:032x}"
