"""The Messages API on the loopback: requests judged by the `anthropic` SDK's types."""

import json
from typing import Any

from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)

from support.sdk_types import check_shape
from support.upstream import Script, Seen, Upstream


class AnthropicUpstream(Upstream):
    """`failed` is the type of the error event that breaks a stream."""

    failed = "overloaded_error"

    def check(self, seen: Seen, raw: bytes) -> None:
        assert seen.headers["anthropic-version"] == "2026-10-21"
        assert "anthropic-canary" in (
            seen.headers.get("x-api-key"),
            seen.headers.get("authorization", "").removeprefix("Bearer "),
        ), "not authorized"
        create = MessageCreateParamsStreaming
        if not self.streamed(seen):
            create = MessageCreateParamsNonStreaming
        kinds = {"/v1/messages": create, "/v1/messages/count_tokens": MessageCountTokensParams}
        check_shape(kinds[seen.path], seen.body)

    def message(self, script: Script, text: str | None) -> dict[str, Any]:
        begun = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": "end_turn" if text else None,
            "stop_sequence": None,
        }
        counts = {"input_tokens": 7, "output_tokens": len(script.words) if text else 1}
        return begun if script.usage == "never" else {**begun, "usage": counts}

    def whole(self, script: Script) -> bytes:
        return json.dumps(self.message(script, "".join(script.words))).encode()

    def opening(self, script: Script) -> list[bytes]:
        block = {"type": "text", "text": ""}
        return [
            self.event("message_start", message=self.message(script, None)),
            self.event("content_block_start", index=0, content_block=block),
            self.event("ping"),
        ]

    def word(self, script: Script, at: int) -> bytes:
        delta = {"type": "text_delta", "text": script.words[at]}
        return self.event("content_block_delta", index=0, delta=delta)

    def ending(self, script: Script, wanted: bool) -> list[bytes]:
        usage = {} if script.usage == "never" else {"usage": {"output_tokens": len(script.words)}}
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        return [
            self.event("content_block_stop", index=0),
            self.event("message_delta", delta=delta, **usage),
            self.event("message_stop"),
        ]

    def failure(self, script: Script) -> bytes:
        return self.event("error", error={"type": self.failed, "message": "Overloaded"})

    @staticmethod
    def event(kind: str, **fields: Any) -> bytes:
        data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
        return f"event: {kind}\ndata: {data}\n\n".encode()
