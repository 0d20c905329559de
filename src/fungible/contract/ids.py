"""Identifiers that sort by time (RFC 9562, UUID version 7)."""

import os
import time


def new_id(prefix: str = "") -> str:
    """A 32-digit hexadecimal UUIDv7, with `prefix` before it (`"att_"`, `"req_"`).

    The twelve bits after the version are the fraction of the millisecond (section 6.2, method 3),
    so that identifiers made one after the other sort that way.
    """
    ms, ns = divmod(time.time_ns(), 1_000_000)
    rand = int.from_bytes(os.urandom(8), "big")
    value = (ms & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (ns * 4096 // 1_000_000) << 64
    value |= 0b10 << 62 | rand & ((1 << 62) - 1)
    return f"{prefix}{value:032x}"
