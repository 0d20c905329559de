"""A suite: items with messages and a scorer each, bundled or from the team's own file.

JSON Lines. The first line is a header (`{"suite": NAME, …}`), each further line an item:
`{"id", "cluster", "messages": [{"role", "content"}], "max_tokens", "scorer": {"kind", …}}`.
"""

import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from fungible.contract.openai import ChatMessage
from fungible.errors import ConfigError
from fungible.evals.scorers import Scorer, check_scorer

BUNDLED = ("everyday",)
_Line = TypeVar("_Line", bound=msgspec.Struct)


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question.

    Attributes:
        cluster: What items belong together: a template, a passage, a conversation.
        max_tokens: Upper limit of the answer's length.
    """

    id: str
    cluster: str
    messages: list[ChatMessage]
    max_tokens: int
    scorer: Scorer


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of every backend. `suite_hash` is 16 hex digits over all items."""

    name: str
    suite_hash: str
    items: list[Item]


class _Header(msgspec.Struct, kw_only=True):
    suite: str


def load_suite(name_or_path: str | Path) -> Suite:
    """A bundled suite by its name, or a suite from a JSON Lines file.

    Raises:
        ConfigError: No such suite, or a line is malformed; names file, line and field.
    """
    if str(name_or_path) in BUNDLED:
        source = resources.files("fungible.evals") / "packs" / f"{name_or_path}.jsonl"
        return parse_suite(source.read_bytes(), f"suite {name_or_path}")
    path = Path(name_or_path)
    try:
        return parse_suite(path.read_bytes(), str(path))
    except OSError as error:
        hint = f"bundled suites: {', '.join(BUNDLED)}; or give the path of a .jsonl file"
        raise ConfigError(f"suite {path}: cannot be read: {error.strerror}", hint=hint) from error


def parse_suite(data: bytes, where: str) -> Suite:
    """The suite in `data`; errors name `where` it came from.

    Raises:
        ConfigError: A line is malformed, ids repeat, or there is no item.
    """
    lines = [
        (number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()
    ]
    if not lines:
        raise ConfigError(f"{where}: empty; a suite starts with a header line")
    header = _decode(lines[0][1], _Header, f"{where}:{lines[0][0]}")
    items = list(_items(lines[1:], where))
    if not items:
        raise ConfigError(f"{where}: no items after the header line")
    content = msgspec.json.encode(items, order="deterministic")
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Suite(name=header.suite, suite_hash=digest, items=items)


def _items(lines: list[tuple[int, bytes]], where: str) -> Iterator[Item]:
    first_seen: dict[str, int] = {}
    for number, line in lines:
        at = f"{where}:{number}"
        item = _decode(line, Item, at)
        if item.id in first_seen:
            raise ConfigError(f"{at}: id {item.id!r} is also on line {first_seen[item.id]}")
        first_seen[item.id] = number
        if not item.id or not item.messages:
            raise ConfigError(f"{at}: {'id' if not item.id else 'messages'} must not be empty")
        if item.max_tokens < 1:
            raise ConfigError(f"{at}: max_tokens must be at least 1")
        check_scorer(item.scorer, f"{at}: scorer")
        yield item


def _decode(line: bytes, kind: type[_Line], at: str) -> _Line:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{at}: {error}") from error
