"""The scripted answers of the `null` backend in each of its formats; vectors are simulated."""

import base64
import hashlib
import struct
import time
from typing import Any

import msgspec

from fungible.contract.completions import Completion, CompletionChoice, read_prompts
from fungible.contract.embeddings import EmbeddingItem, EmbeddingList, EmbeddingUsage, read_inputs
from fungible.contract.inference import InferenceRequest
from fungible.contract.openai import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    UsageBody,
)
from fungible.contract.sse import encode_frame

DIMENSIONS = 8
PIECE = 8  # characters of a call's arguments in one event


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scripted call of one function."""

    name: str
    arguments: dict[str, Any] = {}


class ChatForm:
    """Answers to `chat/completions`.

    Attributes:
        finish: Why an answer ends that nothing cut short.
    """

    finish = "stop"

    def __init__(self, request: InferenceRequest) -> None:
        self._head: dict[str, Any] = {
            "id": f"null-{request.request_id}",
            "created": int(time.time()),
            "model": "null",
        }

    def prompt_words(self, body: dict[str, Any]) -> int:
        """Words of the text of all turns; other parts cost nothing here."""
        return sum(words_of(turn.get("content")) for turn in body.get("messages", []))

    def pieces(self, text: str, count: int | None) -> list[str]:
        """What is said, in the pieces in which it is streamed: words of `text`, or `count`."""
        words = text.split() if count is None else ["null"] * count
        return [word if at == 0 else f" {word}" for at, word in enumerate(words)]

    def whole(self, text: str, finish: str, usage: UsageBody | None) -> bytes:
        """A completed answer."""
        choice = Choice(message=self._message(text), finish_reason=finish)
        blank = UsageBody(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        return _without_usage(
            ChatCompletion(**self._head, choices=[choice], usage=usage or blank), usage
        )

    def piece(self, text: str, *, first: bool) -> bytes:
        """One piece as an event."""
        return self._event([ChunkChoice(delta=self._delta(text, first=first))])

    def _message(self, text: str) -> AssistantMessage:
        return AssistantMessage(content=text)

    def _delta(self, text: str, *, first: bool) -> Delta:
        return Delta(role="assistant" if first else None, content=text)

    def end(self, finish: str) -> bytes:
        """Why it ended, as an event."""
        return self._event([ChunkChoice(delta=Delta(), finish_reason=finish)])

    def counts(self, usage: UsageBody) -> bytes:
        """Token counts, as an event."""
        return self._event([], usage)

    def _event(self, choices: list[ChunkChoice], usage: UsageBody | None = None) -> bytes:
        chunk = ChatChunk(**self._head, choices=choices, usage=usage)
        return encode_frame(msgspec.json.encode(chunk))


class CallForm(ChatForm):
    """Answers to `chat/completions` that call a function."""

    finish = "tool_calls"

    def __init__(self, request: InferenceRequest, tool: Tool) -> None:
        super().__init__(request)
        self._tool = tool
        self._call = f"call_{request.request_id}"

    def pieces(self, text: str, count: int | None) -> list[str]:
        """The arguments' JSON; what text there would be is not said."""
        written = msgspec.json.encode(self._tool.arguments).decode()
        return [written[at : at + PIECE] for at in range(0, len(written), PIECE)]

    def _message(self, text: str) -> AssistantMessage:
        function = FunctionCall(name=self._tool.name, arguments=text)
        return AssistantMessage(
            content=None, tool_calls=[ToolCall(id=self._call, function=function)]
        )

    def _delta(self, text: str, *, first: bool) -> Delta:
        if not first:
            more = FunctionDelta(arguments=text)
            return Delta(tool_calls=[ToolCallDelta(index=0, function=more)])
        function = FunctionDelta(name=self._tool.name, arguments=text)
        head = ToolCallDelta(index=0, id=self._call, type="function", function=function)
        return Delta(role="assistant", tool_calls=[head])


def offers(body: dict[str, Any], name: str) -> bool:
    """Whether a request lets the model call this function, and has no result yet."""
    turns = body.get("messages") or [{}]
    if body.get("tool_choice") == "none" or turns[-1].get("role") == "tool":
        return False
    tools = body.get("tools")
    return any(
        isinstance(tool, dict)
        and isinstance(function := tool.get("function"), dict)
        and function.get("name") == name
        for tool in (tools if isinstance(tools, list) else ())
    )


class CompletionForm(ChatForm):
    """Answers to `completions`."""

    def prompt_words(self, body: dict[str, Any]) -> int:
        """Words of all prompts; a token id is a word."""
        prompts = read_prompts(body.get("prompt"))
        return sum(len(one.split() if isinstance(one, str) else one) for one in prompts)

    def whole(self, text: str, finish: str, usage: UsageBody | None) -> bytes:
        """A completed answer."""
        choice = CompletionChoice(index=0, text=text, finish_reason=finish)
        return _without_usage(Completion(**self._head, choices=[choice], usage=usage), usage)

    def piece(self, text: str, *, first: bool) -> bytes:
        """One word as an event."""
        return self._text(CompletionChoice(index=0, text=text))

    def end(self, finish: str) -> bytes:
        """Why it ended, as an event."""
        return self._text(CompletionChoice(index=0, text="", finish_reason=finish))

    def counts(self, usage: UsageBody) -> bytes:
        """Token counts, as an event."""
        return self._text(None, usage)

    def _text(self, choice: CompletionChoice | None, usage: UsageBody | None = None) -> bytes:
        choices = [] if choice is None else [choice]
        return encode_frame(
            msgspec.json.encode(Completion(**self._head, choices=choices, usage=usage))
        )


def _without_usage(answer: object, usage: UsageBody | None) -> bytes:
    body = msgspec.to_builtins(answer)
    if usage is None:
        del body["usage"]
    return msgspec.json.encode(body)


def embeddings(body: dict[str, Any], *, usage: bool) -> bytes:
    """Simulated vectors of `DIMENSIONS` numbers, the same for the same input."""
    inputs = read_inputs(body.get("input"))
    items = []
    for at, one in enumerate(inputs):
        vector = _vector(msgspec.json.encode(one))
        packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        coded = packed if body.get("encoding_format") == "base64" else vector
        items.append(EmbeddingItem(index=at, embedding=coded))
    count = sum(len(one.split() if isinstance(one, str) else one) for one in inputs)
    counts = EmbeddingUsage(prompt_tokens=count, total_tokens=count)
    answer = msgspec.to_builtins(EmbeddingList(data=items, model="null-simulated", usage=counts))
    if not usage:
        del answer["usage"]
    return msgspec.json.encode(answer)


def _vector(text: bytes) -> list[float]:
    """A unit vector from a hash: no meaning is in it."""
    digest = hashlib.sha256(text).digest()[:DIMENSIONS]
    raw = [byte / 127.5 - 1.0 for byte in digest]
    length = sum(one * one for one in raw) ** 0.5
    return [one / length for one in raw]


def words_of(content: object) -> int:
    """Words of a turn's text."""
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return sum(len(str(part.get("text", "")).split()) for part in parts if isinstance(part, dict))
