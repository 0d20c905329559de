"""Answers of any shape, streamed in any pieces, and what the vendors' SDKs rebuild of them."""

from typing import Any

import msgspec
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from fungible.contract.sse import EventBuffer, split_frames
from support.wire_events import bare, bodies

Event = dict[str, Any]


class Answer(msgspec.Struct, kw_only=True):
    """What a model said: text, calls (id, name, arguments), counts."""

    text: str
    calls: list[tuple[str, str, dict[str, Any]]]
    fresh: int
    cached: int
    out: int
    cut: bool

    @property
    def finish(self) -> str:
        """Chat's name for why it ended."""
        return "tool_calls" if self.calls else "length" if self.cut else "stop"

    @property
    def usage(self) -> Event:
        """Chat's counts."""
        prompt = self.fresh + self.cached
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.out,
            "total_tokens": prompt + self.out,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def completion(self) -> bytes:
        """It in one piece, as a chat server answers."""
        message: Event = {"role": "assistant", "content": self.text or None}
        if self.calls:
            message["tool_calls"] = [chat_call(*call) for call in self.calls]
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
        return msgspec.json.encode(head | {"choices": [choice], "usage": self.usage})


def chat_call(id_: str, name: str, arguments: Event) -> Event:
    """A call in chat's form."""
    function = {"name": name, "arguments": dumps(arguments)}
    return {"id": id_, "type": "function", "function": function}


def dumps(value: object) -> str:
    return msgspec.json.encode(value).decode()


words = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
names = st.text("abcdefghij_", min_size=1, max_size=8)
calls = st.tuples(names, names, st.dictionaries(words, values, max_size=3))
count = st.integers(0, 10**6)
answers = st.builds(
    Answer,
    text=words,
    calls=st.lists(calls, max_size=3, unique_by=lambda call: call[0]),
    fresh=count,
    cached=count,
    out=count,
    cut=st.booleans(),
)


@st.composite
def chat_streams(draw: st.DrawFn) -> tuple[Answer, list[bytes]]:
    """An answer and the frames in which a chat server streams it, however the network cut them."""
    answer = draw(answers)
    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": part}) for part in draw(pieces(answer.text))]
    for at, (id_, name, args) in enumerate(answer.calls):
        head = {"index": at, "id": id_, "type": "function"}
        events.append(chunk({"tool_calls": [head | {"function": {"name": name}}]}))
        for part in draw(pieces(dumps(args))):
            call = {"index": at, "function": {"arguments": part}}
            events.append(chunk({"tool_calls": [call]}))
    events.append(chunk({}, answer.finish))
    usage = {**_HEAD, "choices": [], "usage": answer.usage}
    stream = b"".join([*events, bare(usage), b"data: [DONE]\n\n"])
    buffer, frames = EventBuffer(), []
    for part in draw(byte_pieces(stream)):
        frames += split_frames(buffer.feed(part))
    assert not buffer.rest
    return answer, frames


_HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(delta: Event, finish: str | None = None) -> bytes:
    """One chat chunk as an event."""
    return bare({**_HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """`text` cut anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def byte_pieces(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """`stream` cut anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=4)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


_message_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def rebuilt_message(stream: bytes) -> Message:
    """What the anthropic SDK makes of a stream; every event must be one of its types."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for body in bodies(stream):
        event = _message_event.validate_python(body)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return Message.model_validate(snapshot.to_dict())


def rebuilt_completion(stream: bytes) -> ChatCompletion:
    """What the openai SDK makes of a stream; every event must be one of its types."""
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for body in bodies(stream):
        state.handle_chunk(ChatCompletionChunk.model_validate(body))
    return ChatCompletion.model_validate(state.current_completion_snapshot.to_dict())


_response_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def rebuilt_response(stream: bytes) -> Response:
    """What the openai SDK makes of a stream; every event must be one of its types, in order."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    last: Any = None
    for number, body in enumerate(bodies(stream)):
        last = _response_event.validate_python(body)
        assert last.sequence_number == number
        state.handle_event(last)
    response = Response.model_validate(last.response.to_dict())
    grown = [state._output_items[at] for at in range(len(response.output))]
    assert [_told(item) for item in grown] == [_told(item) for item in response.output]
    return response


def _told(item: Any) -> tuple[Any, ...]:
    """What deltas add to an item."""
    if item.type == "message":
        return tuple(part.text for part in item.content if part.type == "output_text")
    return (item.name, item.call_id, item.arguments) if item.type == "function_call" else ()
