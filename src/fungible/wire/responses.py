"""`/v1/responses`: OpenAI's typed events (OpenAI API reference, Responses)."""

from typing import Any

import msgspec

from fungible.contract.inference import usage_from_responses
from fungible.contract.sse import encode_event, frame_data
from fungible.errors import FungibleError
from fungible.wire.observer import Observer, Reader, Seen, broke_off, no_answer


class _Part(msgspec.Struct):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct):
    type: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    content: list[_Part] | None = None


class _Details(msgspec.Struct):
    reason: Any = None


class _Response(msgspec.Struct):
    id: Any = None
    status: Any = None
    output: list[_Item] | None = None
    usage: Any = None
    error: Any = None
    incomplete_details: _Details | None = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: Any = None
    item: _Item | None = None
    response: _Response | None = None
    message: Any = None
    error: Any = None
    sequence_number: Any = None


_SAID = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    }
)
_ENDS = frozenset({"response.completed", "response.incomplete"})
_KNOWN = _SAID | _ENDS | {"response.failed", "response.output_item.added", "error"}
_read_event, _read_response = Reader(_Event), Reader(_Response)


class ResponseObserver(Observer):
    """Reads a response, whole or as events up to `response.completed` or `.incomplete`.

    `response.failed` breaks the stream, after its usage was read: what failed was billed.
    """

    def event(self, frame: bytes) -> Seen:
        """Read one event; unknown ones pass.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        data = frame_data(frame)
        if data is None or not data.strip() or data.strip() == b"[DONE]":
            return Seen.SHOW
        event = _read_event.event(data, _KNOWN)
        if event is None:
            return Seen.SHOW
        if event.type == "error" or (event.type is None and event.error is not None):
            raise broke_off(event.error or event.message)
        if event.response is not None:
            self.named(event.response.id)
        if event.type in _ENDS or event.type == "response.failed":
            return self._end(event)
        if event.type in _SAID and isinstance(event.delta, str):
            self.text(event.delta)
        elif event.type == "response.output_item.added" and event.item and event.item.name:
            self.text(str(event.item.name))
        elif event.type in (
            "response.reasoning_text.delta",
            "response.reasoning_summary_text.delta",
        ):
            self.begun = True
        if isinstance(event.sequence_number, int):
            self.number = event.sequence_number + 1
        self.stamp()
        return Seen.SHOW

    def _end(self, event: _Event) -> Seen:
        response = event.response or _Response()
        self._close(response)
        if event.type == "response.failed":
            raise broke_off(response.error)
        self.stamp()
        return Seen.END

    def whole(self, body: bytes) -> None:
        """Read a completed response.

        Raises:
            UpstreamConnectError: The body is not a response, or one that failed.
        """
        response = _read_response.whole(body)
        self._close(response)
        if response.error is not None or response.output is None or response.status == "failed":
            raise no_answer(response.error)
        for item in response.output:
            self._item(item)

    def _item(self, item: _Item) -> None:
        if item.type == "reasoning":
            return
        said = [item.name, item.arguments, item.input]
        for part in item.content or ():
            said += [part.text, part.refusal]
        for part in said:
            if isinstance(part, str) and part:
                self.text(part)

    def _close(self, response: _Response) -> None:
        self.named(response.id)
        details = response.incomplete_details
        self.finish_reason = str((details and details.reason) or response.status or "")
        self.begun = True
        usage = usage_from_responses(response.usage)
        if usage.source != "none":
            self.usage = usage


def responses_error_event(error: FungibleError, number: int = 0) -> bytes:
    """An error as the event that ends a broken stream; no `response.completed` follows it.

    `number` is that of the next event, as the client counts them.
    """
    said = error.to_openai()["error"]
    # `error` beside the documented fields: the openai client raises only where it finds that.
    body = {
        "type": "error",
        "code": said["code"],
        "message": said["message"],
        "param": said["param"],
        "sequence_number": number,
        "error": said,
    }
    return encode_event("error", msgspec.json.encode(body))
