"""Answers of Bedrock's Converse API in the chat format, whole and streamed."""

from typing import Any

import msgspec

from fungible.contract.sse import DONE
from fungible.errors import (
    StreamBrokenError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
)
from fungible.wire.chat_writing import ChatWriter, call_delta, chat_usage, whole_call

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def finish_reason(stop: object) -> str:
    """The chat format's word for a `stopReason`.

    Raises:
        StreamBrokenError: The model's answer was malformed; there is none to show.
    """
    if str(stop).startswith("malformed"):
        raise StreamBrokenError(f"Bedrock stopped: {stop}")
    return _FINISH.get(str(stop), "stop")


def usage_of(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """Token counts. Bedrock counts cached tokens beside `inputTokens`, chat within it."""
    if not usage:
        return None
    read = int(usage.get("cacheReadInputTokens") or 0)
    written = int(usage.get("cacheWriteInputTokens") or 0)
    return chat_usage(
        prompt=int(usage["inputTokens"]) + read + written,
        completion=int(usage["outputTokens"]),
        cached=read,
        written=written,
    )


def whole_answer(body: bytes, writer: ChatWriter) -> bytes:
    """A completed answer.

    Raises:
        UpstreamConnectError: It is not what the service model says, or malformed by the model.
    """
    try:
        answer = msgspec.json.decode(body)
        blocks = answer["output"]["message"]["content"]
        text = "".join(_text(block) for block in blocks)
        thought = "".join(_thought(block.get("reasoningContent") or {}) for block in blocks)
        uses = [block["toolUse"] for block in blocks if "toolUse" in block]
        calls = [whole_call(use["toolUseId"], use["name"], use["input"]) for use in uses]
        message: dict[str, Any] = {"content": text or None}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        elif not text:
            message["content"] = ""
        return writer.whole(
            message, finish_reason(answer.get("stopReason")), usage_of(answer.get("usage"))
        )
    except StreamBrokenError as error:
        raise UpstreamConnectError(error.message) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UpstreamConnectError(f"Bedrock's answer is malformed: {error!r}") from error


def _text(block: dict[str, Any]) -> str:
    cited = (block.get("citationsContent") or {}).get("content") or ()
    return str(block.get("text") or "") + "".join(str(one.get("text") or "") for one in cited)


def _thought(reasoning: dict[str, Any]) -> str:
    return str((reasoning.get("reasoningText") or {}).get("text") or "")


class ConverseStream:
    """Events of ConverseStream, one after the other, as events of the chat format."""

    def __init__(self, writer: ChatWriter) -> None:
        self._writer = writer
        self._calls: dict[int, int] = {}
        self._stopped = False
        self._role = {"role": "assistant"}

    def event(self, kind: str, payload: bytes) -> bytes:
        """None or more chat events for one of Bedrock's.

        Raises:
            StreamBrokenError: It is not what the service model says.
        """
        try:
            return self._translated(kind, msgspec.json.decode(payload))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StreamBrokenError(f"Bedrock sent a malformed {kind}: {error!r}") from error

    def _translated(self, kind: str, body: dict[str, Any]) -> bytes:
        if kind == "contentBlockDelta":
            return self._delta(body["contentBlockIndex"], body["delta"])
        if kind == "contentBlockStart" and (use := body["start"].get("toolUse")):
            index = self._calls[body["contentBlockIndex"]] = len(self._calls)
            first = call_delta(index, call=use["toolUseId"], name=use["name"], arguments="")
            return self._write(first)
        if kind == "messageStop":
            self._stopped = True
            return self._write({}, finish_reason(body["stopReason"]))
        if kind == "metadata" and self._stopped:
            return self._writer.usage(usage_of(body.get("usage"))) + self.end()
        return b""

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        if (text := delta.get("text")) is not None:
            return self._write({"content": text})
        if use := delta.get("toolUse"):
            return self._write(call_delta(self._calls[index], arguments=use["input"]))
        if thought := (delta.get("reasoningContent") or {}).get("text"):
            return self._write({"reasoning_content": thought})
        return b""

    def _write(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """One chunk; the first says whose turn it is."""
        role, self._role = self._role, {}
        return self._writer.delta(role | delta, finish)

    def end(self) -> bytes:
        """What ends a stream in which the model stopped; nothing after one that was cut."""
        stopped, self._stopped = self._stopped, False
        return DONE if stopped else b""


def stream_exception(backend: str, kind: str, payload: bytes) -> UpstreamError:
    """What an exception in the middle of a stream means (its name in lower camel case)."""
    try:
        body = msgspec.json.decode(payload, type=dict[str, Any])
        said = str(body.get("message") or body.get("Message") or "")[:300]
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = ""
    text = f"{backend} broke off: {kind}: {said}" if said else f"{backend} broke off: {kind}"
    plain = kind.lower().removesuffix("exception")
    if plain in ("throttling", "serviceunavailable", "modelnotready"):
        return UpstreamBusyError(text)
    if plain == "modeltimeout":
        return UpstreamTimeoutError(text)
    if plain == "validation":
        return UpstreamRejectedError(text)
    return StreamBrokenError(text)
