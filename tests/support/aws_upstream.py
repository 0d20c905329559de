"""Bedrock and SageMaker on the loopback: signatures checked, bodies judged, real event frames."""

import json
from typing import Any

from fungible.backends.aws import EVENT_STREAM
from support.aws_wire import check_request, check_signature, encode_event
from support.upstream import Script, Seen, Upstream

SECRET = "aws-secret-canary"


class AWSUpstream(Upstream):
    """`operations` collects what was asked, as the service model names it.

    Attributes:
        bearer: The only key that is let in; empty for signatures.
        damaged: A bit of every event after the first is flipped on its way.
    """

    stream_type = EVENT_STREAM
    service = ""
    signing_name = ""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.bearer = ""
        self.damaged = False
        self.exception: tuple[str, dict[str, Any]] = ("internalServerException", {"message": "x"})

    def check(self, seen: Seen, raw: bytes) -> None:
        self.operations.append(check_request(self.service, seen.path, seen.headers, raw))
        if self.bearer:
            assert seen.headers["authorization"] == f"Bearer {self.bearer}"
            return
        check_signature(seen.path, seen.headers, raw, secret=SECRET, service=self.signing_name)

    def streamed(self, seen: Seen) -> bool:
        return "stream" in seen.path.rpartition("/")[2]

    def failure(self, script: Script) -> bytes:
        kind, said = self.exception
        return encode_event(kind, json.dumps(said).encode(), exception=True)

    def malformed(self) -> bytes:
        return encode_event("contentBlockDelta", b"{not json")


class BedrockUpstream(AWSUpstream):
    """Converse and ConverseStream; `blocks` replaces the answer's content."""

    service = "bedrock-runtime"
    signing_name = "bedrock"

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[dict[str, Any]] | None = None
        self.stop_reason = "end_turn"
        self.cached = {"cacheReadInputTokens": 0, "cacheWriteInputTokens": 0}

    def whole(self, script: Script) -> bytes:
        content = self.blocks or [{"text": "".join(script.words)}]
        body: dict[str, Any] = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self.stop_reason,
            "metrics": {"latencyMs": 5},
        }
        if script.usage != "never":
            body["usage"] = self.usage(script)
        return json.dumps(body, ensure_ascii=False).encode()

    def usage(self, script: Script) -> dict[str, int]:
        count = len(script.words)
        total = 7 + count + sum(self.cached.values())
        return {"inputTokens": 7, "outputTokens": count, "totalTokens": total, **self.cached}

    def opening(self, script: Script) -> list[bytes]:
        return [self.event("messageStart", {"role": "assistant"})]

    def word(self, script: Script, at: int) -> bytes:
        delta = {"contentBlockIndex": 0, "delta": {"text": script.words[at]}}
        event = self.event("contentBlockDelta", delta)
        return event[:-5] + bytes([event[-5] ^ 1]) + event[-4:] if self.damaged and at else event

    def ending(self, script: Script, wanted: bool) -> list[bytes]:
        found = [
            self.event("contentBlockStop", {"contentBlockIndex": 0}),
            self.event("messageStop", {"stopReason": self.stop_reason}),
        ]
        if script.usage != "never":
            counts = {"usage": self.usage(script), "metrics": {"latencyMs": 5}}
            found.append(self.event("metadata", counts))
        return found

    @staticmethod
    def event(kind: str, body: dict[str, Any]) -> bytes:
        # Bedrock pads events so that their sizes tell nothing.
        return encode_event(kind, json.dumps({**body, "p": "abcdefgh"}).encode())


class SageMakerUpstream(AWSUpstream):
    """A container that speaks the OpenAI API; its stream is cut anywhere into parts."""

    service = "sagemaker-runtime"
    signing_name = "sagemaker"

    def opening(self, script: Script) -> list[bytes]:
        return []

    def word(self, script: Script, at: int) -> bytes:
        return self._parts(super().word(script, at))

    def ending(self, script: Script, wanted: bool) -> list[bytes]:
        return [self._parts(event) for event in super().ending(script, wanted)]

    @staticmethod
    def _parts(event: bytes) -> bytes:
        pieces = [event[at : at + 11] for at in range(0, len(event), 11)]
        return b"".join(encode_event("PayloadPart", piece) for piece in pieces)
