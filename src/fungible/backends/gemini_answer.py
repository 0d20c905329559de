"""Answers of Gemini's generateContent in the chat format, whole and streamed."""

from typing import Any

import msgspec

from fungible.backends.upstream_errors import error_for_status
from fungible.contract.sse import DONE
from fungible.errors import StreamBrokenError, UpstreamConnectError
from fungible.wire.chat_writing import ChatWriter, chat_usage, whole_call

_BLOCKED = frozenset(
    {
        "BLOCKLIST",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_SAFETY",
        "MODEL_ARMOR",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "SAFETY",
        "SPII",
    }
)
_FAILED = frozenset({"MALFORMED_FUNCTION_CALL", "TOO_MANY_TOOL_CALLS", "UNEXPECTED_TOOL_CALL"})


class Piece(msgspec.Struct, kw_only=True):
    """What one response holds of the answer."""

    text: str = ""
    thought: str = ""
    calls: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] = []
    finish: str = ""


class GeminiReader:
    """Reads one response after the other; a whole answer is one response.

    Attributes:
        usage: The last counts it reported, as the chat format's `usage`.
    """

    def __init__(self, backend: str, request_id: str) -> None:
        self.usage: dict[str, Any] | None = None
        self._backend = backend
        self._request_id = request_id
        self._calls = 0

    def read(self, body: dict[str, Any]) -> Piece:
        """The part of the answer in one response.

        Raises:
            UpstreamError: It is an error instead.
            StreamBrokenError: It is not what the API describes, or the model's call is malformed.
        """
        if isinstance(failed := body.get("error"), dict):
            code = failed.get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            raise error_for_status(self._backend, status, msgspec.json.encode(body))
        try:
            return self._read(body)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise StreamBrokenError(
                f"{self._backend} sent a malformed response: {error!r}"
            ) from error

    def _read(self, body: dict[str, Any]) -> Piece:
        if counts := body.get("usageMetadata"):
            self.usage = usage_of(counts) or self.usage
        piece = Piece()
        candidates = body.get("candidates")
        if not candidates:
            blocked = (body.get("promptFeedback") or {}).get("blockReason")
            piece.finish = "content_filter" if blocked else ""
            return piece
        candidate = candidates[0]
        for part in (candidate.get("content") or {}).get("parts") or ():
            if "functionCall" in part:
                piece.calls.append(self._call(part["functionCall"], part.get("thoughtSignature")))
            elif part.get("thought"):
                piece.thought += part.get("text") or ""
            else:
                piece.text += part.get("text") or ""
        piece.logprobs = logprobs_of(candidate.get("logprobsResult") or {})
        if reason := candidate.get("finishReason"):
            piece.finish = self._finish(str(reason))
        return piece

    def _call(self, call: dict[str, Any], signature: str | None) -> dict[str, Any]:
        own = f"call_{self._request_id}_{self._calls}"
        self._calls += 1
        made = whole_call(str(call.get("id") or own), str(call["name"]), call.get("args") or {})
        if signature:
            made["extra_content"] = {"google": {"thought_signature": signature}}
        return made

    def _finish(self, reason: str) -> str:
        if reason in _FAILED:
            raise StreamBrokenError(f"{self._backend} stopped: {reason}")
        if reason in _BLOCKED:
            return "content_filter"
        if reason == "MAX_TOKENS":
            return "length"
        return "tool_calls" if self._calls else "stop"


def usage_of(counts: dict[str, Any]) -> dict[str, Any] | None:
    """Token counts. Gemini counts thoughts beside the answer's tokens, chat within them."""
    if "promptTokenCount" not in counts:
        return None
    thoughts = int(counts.get("thoughtsTokenCount") or 0)
    prompt = int(counts["promptTokenCount"]) + int(counts.get("toolUsePromptTokenCount") or 0)
    return chat_usage(
        prompt=prompt,
        completion=int(counts.get("candidatesTokenCount") or 0) + thoughts,
        cached=int(counts.get("cachedContentTokenCount") or 0),
        reasoning=thoughts,
    )


def logprobs_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Natural-log probabilities of the chosen tokens, and of the likeliest at each place."""
    tops = result.get("topCandidates") or []
    found = []
    for at, chosen in enumerate(result.get("chosenCandidates") or ()):
        likely = (tops[at].get("candidates") or []) if at < len(tops) else []
        found.append(_logprob(chosen) | {"top_logprobs": [_logprob(one) for one in likely]})
    return found


def _logprob(one: dict[str, Any]) -> dict[str, Any]:
    token = str(one.get("token") or "")
    # The likeliest token of all has probability 1, which protobuf's JSON leaves out.
    value = float(one.get("logProbability") or 0.0)
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def whole_answer(body: bytes, reader: GeminiReader, writer: ChatWriter) -> bytes:
    """A completed answer.

    Raises:
        UpstreamConnectError: It is not what the API describes, or there is no answer in it.
    """
    try:
        piece = reader.read(msgspec.json.decode(body))
    except StreamBrokenError as error:
        raise UpstreamConnectError(error.message) from error
    if not piece.finish:
        raise UpstreamConnectError("Gemini gave an answer without an end")
    message: dict[str, Any] = {"content": piece.text or (None if piece.calls else "")}
    if piece.thought:
        message["reasoning_content"] = piece.thought
    if piece.calls:
        message["tool_calls"] = piece.calls
    return writer.whole(message, piece.finish, reader.usage, piece.logprobs)


class GeminiStream:
    """Responses of streamGenerateContent as events of the chat format."""

    def __init__(self, reader: GeminiReader, writer: ChatWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._role = {"role": "assistant"}
        self._calls = 0
        self._finished = False

    def response(self, data: bytes) -> bytes:
        """None or more chat events.

        Raises:
            UpstreamError: The response is an error or malformed.
        """
        try:
            body = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StreamBrokenError(f"Gemini sent an event that is not JSON: {error}") from error
        piece = self._reader.read(body)
        delta: dict[str, Any] = {}
        if piece.thought:
            delta["reasoning_content"] = piece.thought
        if piece.text:
            delta["content"] = piece.text
        if piece.calls:
            delta["tool_calls"] = [self._numbered(call) for call in piece.calls]
        if not (delta or piece.finish):
            return b""
        self._finished = self._finished or bool(piece.finish)
        role, self._role = self._role, {}
        return self._writer.delta(role | delta, piece.finish or None, piece.logprobs)

    def _numbered(self, call: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        return {"index": self._calls - 1} | call

    def end(self) -> bytes:
        """What ends a stream whose answer was finished; nothing after one that was cut."""
        return self._writer.usage(self._reader.usage) + DONE if self._finished else b""
