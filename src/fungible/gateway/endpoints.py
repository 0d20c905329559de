"""The endpoints that are answered by backends. A new one is one entry of `READERS`."""

from collections.abc import Callable
from typing import Any

import msgspec

from fungible.contract.inference import Endpoint
from fungible.contract.openai import parse_chat
from fungible.wire.formats import FORMATS, WireFormat


class Asked(msgspec.Struct, frozen=True):
    """What the edge needs to know of a request's body; `fields` is the whole of it."""

    model: str
    stream: bool
    fields: dict[str, Any]


# Checks a body as its format demands; raises `RequestError`, which names the field at fault.
Reader = Callable[[bytes], Asked]


def read_chat(body: bytes) -> Asked:
    """Read the body of `/v1/chat/completions`."""
    chat, fields = parse_chat(body)
    return Asked(chat.model, bool(chat.stream), fields)


READERS: dict[Endpoint, Reader] = {
    "chat/completions": read_chat,
}


class Served(msgspec.Struct, frozen=True):
    """One endpoint at its path."""

    format: WireFormat
    read: Reader


ENDPOINTS = {f"/v1/{name}": Served(FORMATS[name], read) for name, read in READERS.items()}
