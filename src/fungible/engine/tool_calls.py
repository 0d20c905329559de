"""Calls of tools in the text of an answer: read as it comes, never shown as markup.

A call is told once it is complete, so text that only looks like a call goes back to being
content. What is read does not depend on how the text was cut.
"""

import json
from collections.abc import Callable, Collection
from enum import Enum
from functools import partial
from typing import Any, Protocol

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.openai import FunctionCall, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_PYTHON_TAG = "<|python_tag|>"
_TOOL_CALLS = "[TOOL_CALLS]"
_DECODER = json.JSONDecoder()


class ToolFormat(Enum):
    """How a family of models writes calls.

    `HERMES`: `<tool_call>{"name", "arguments"}</tool_call>` (Hermes, Qwen). `LLAMA`:
    `{"name", "parameters"}`, several joined by `;` (Llama 3). `MISTRAL`: `[TOOL_CALLS]` and a
    list of `{"name", "arguments"}`, or, as its newer models do, `[TOOL_CALLS]name[ARGS]{…}` for
    each call. Its marks are control tokens, so an answer's text may lack them.
    """

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"


def format_of(template: str) -> ToolFormat:
    """The format that a chat template's source speaks of; Hermes' where it names none."""
    if _TOOL_CALLS in template:
        return ToolFormat.MISTRAL
    if OPEN not in template and (_PYTHON_TAG in template or '"parameters": ' in template):
        return ToolFormat.LLAMA
    return ToolFormat.HERMES


class Read(msgspec.Struct, kw_only=True):
    """What a piece of an answer turned out to be."""

    content: str = ""
    calls: list[ToolCall] = []


class ToolParser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> Read:
        """What `text` completes."""
        ...

    def finish(self) -> Read:
        """What is left when the answer ends."""
        ...


def parser_for(kind: ToolFormat, names: Collection[str]) -> ToolParser:
    """A parser for one answer.

    Args:
        kind: How the model writes calls.
        names: Functions that may be called; a call of another stays content.
    """
    if kind is ToolFormat.HERMES:
        return _TaggedParser(names)
    if kind is ToolFormat.LLAMA:
        return _WholeParser((_PYTHON_TAG, "{"), partial(_llama_calls, names=names))
    named = [name + after for name in names for after in "[{"]
    return _WholeParser((_TOOL_CALLS, "[", *named), partial(_mistral_calls, names=names))


class _TaggedParser:
    """Calls between tags, with text around them; white space beside a call is dropped."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._space = ""
        self._after_call = False
        self._shown = False

    def push(self, text: str) -> Read:
        self._held += text
        read = Read(calls=[])
        while (start := self._held.find(OPEN)) >= 0:
            end = _end_of_call(self._held, start + len(OPEN))
            if end is None:
                self._show(self._held[:start], read)
                self._held = self._held[start:]
                return read
            call = _call(_loads(self._held[start + len(OPEN) : end]), self._names)
            after = end + len(CLOSE)
            if call is None:
                self._show(self._held[:after], read)
            else:
                self._show(self._held[:start], read)
                read.calls.append(call)
                self._space, self._after_call = "", True
            self._held = self._held[after:]
        keep = _overlap(self._held, OPEN)
        cut = len(self._held) - keep
        self._show(self._held[:cut], read)
        self._held = self._held[cut:]
        return read

    def finish(self) -> Read:
        """Text of a call that never ended is content, unless all but its end tag is there."""
        read = Read(calls=[])
        call = None
        if self._held.startswith(OPEN):
            call = _call(_loads(self._held.removeprefix(OPEN)), self._names)
        if call is not None:
            read.calls.append(call)
        else:
            self._show(self._held, read)
            read.content += "" if self._after_call else self._space
        self._held = self._space = ""
        return read

    def _show(self, text: str, read: Read) -> None:
        """Add content, but hold white space back: a call may follow."""
        text = self._space + text
        if self._after_call and not self._shown:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._after_call, self._shown = False, True
        read.content += kept


class _WholeParser:
    """Answers that are calls from their first character on, or else are no calls at all.

    Args:
        starts: How calls may begin.
        read: The calls in a whole answer; `None` for each that is none.
    """

    def __init__(
        self, starts: tuple[str, ...], read: Callable[[str], list[ToolCall | None]]
    ) -> None:
        self._starts = starts
        self._read = read
        self._held = ""
        self._content = False

    def push(self, text: str) -> Read:
        if self._content:
            return Read(content=text)
        self._held += text
        begun = self._held.lstrip()
        if any(begun.startswith(start) or start.startswith(begun) for start in self._starts):
            return Read()
        self._content = True
        return Read(content=self._held)

    def finish(self) -> Read:
        """The calls, if every one is complete; else all of it as content."""
        if self._content:
            return Read()
        calls = self._read(self._held.strip())
        good = [one for one in calls if one is not None]
        if good and len(good) == len(calls):
            return Read(calls=good)
        return Read(content=self._held)


def _llama_calls(text: str, names: Collection[str]) -> list[ToolCall | None]:
    body = text.removeprefix(_PYTHON_TAG).strip()
    return [_call(one, names, "parameters") for one in _objects(body)]


def _mistral_calls(text: str, names: Collection[str]) -> list[ToolCall | None]:
    found: list[ToolCall | None] = []
    while text:
        text = text.removeprefix(_TOOL_CALLS).strip()
        if text.startswith("["):
            return found + [_call(one, names) for one in _objects(text)]
        head = text.partition("{")[0]
        try:
            arguments, end = _DECODER.raw_decode(text, len(head))
        except (ValueError, RecursionError):
            return [None]
        name = head.partition("[")[0].strip()  # what follows is `[ARGS]`, or an id before it
        found.append(_call({"name": name, "arguments": arguments}, names))
        text = text[end:].strip()
    return found


def _objects(text: str) -> list[Any]:
    """A JSON list's entries, or values joined by `;`; one `None` where it is neither."""
    found: list[Any] = []
    at = 0
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return [None]
        found += value if isinstance(value, list) else [value]
        while at < len(text) and (text[at] == ";" or text[at].isspace()):
            at += 1
    return found


def _call(value: object, names: Collection[str], spelling: str = "arguments") -> ToolCall | None:
    """The call that a decoded object stands for."""
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get(spelling, value.get("arguments", {}))
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    function = FunctionCall(name=value["name"], arguments=text)
    return ToolCall(id=new_id("call_"), function=function)


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _end_of_call(text: str, start: int) -> int | None:
    """Where the end tag is that does not stand inside a JSON string."""
    if text.find(CLOSE, start) < 0:
        return None
    inside, at = False, start
    while at < len(text):
        if inside and text[at] == "\\":
            at += 2
            continue
        if text[at] == '"':
            inside = not inside
        elif not inside and text.startswith(CLOSE, at):
            return at
        at += 1
    return None


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a start of `tag`, but not all of it."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
