"""Vertex AI on the loopback: both wires, and Google's token endpoint beside it."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from openai.types.chat import completion_create_params as chat

from support.gemini_shape import check_gemini
from support.sdk_types import check_shape
from support.upstream import Script, Seen, Upstream

_HOME = r"/v1/(?:projects/my-project/locations/[a-z0-9-]+/)?"
_OPENAI = re.compile(_HOME + r"endpoints/[a-z0-9-]+/chat/completions")
_GEMINI = re.compile(
    _HOME + r"(?:publishers/google/models|endpoints)/[a-z0-9.-]+:"
    r"(?P<method>generateContent|streamGenerateContent\?alt=sse)"
)


class VertexUpstream(Upstream):
    """`parts` replaces the answer's content; `authorized` holds the headers that it lets in."""

    def __init__(self) -> None:
        super().__init__()
        self.authorized = {("x-goog-api-key", "google-canary")}
        self.parts: list[dict[str, Any]] | None = None
        self.finish = "STOP"
        self.more: dict[str, Any] = {}
        self._gemini = False

    def check(self, seen: Seen, raw: bytes) -> None:
        assert self.authorized & set(seen.headers.items()), "not authorized"
        self._gemini = ":" in seen.path
        if self._gemini:
            assert _GEMINI.fullmatch(seen.path), f"no such path: {seen.path}"
            check_gemini(seen.body)
            return
        assert _OPENAI.fullmatch(seen.path), f"no such path: {seen.path}"
        whole = chat.CompletionCreateParamsNonStreaming
        check_shape(
            chat.CompletionCreateParamsStreaming if self.streamed(seen) else whole, seen.body
        )

    def streamed(self, seen: Seen) -> bool:
        return "stream" in seen.path if ":" in seen.path else super().streamed(seen)

    def whole(self, script: Script) -> bytes:
        if not self._gemini:
            return super().whole(script)
        parts = self.parts or [{"text": "".join(script.words)}]
        return json.dumps(self.response(script, parts, self.finish), ensure_ascii=False).encode()

    def word(self, script: Script, at: int) -> bytes:
        if not self._gemini:
            return super().word(script, at)
        return self.event(self.response(script, [{"text": script.words[at]}], ""))

    def ending(self, script: Script, wanted: bool) -> list[bytes]:
        if not self._gemini:
            return super().ending(script, wanted)
        return [self.event(self.response(script, self.parts or [{"text": ""}], self.finish))]

    def failure(self, script: Script) -> bytes:
        said = {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED"}
        return self.event({"error": said})

    def response(self, script: Script, parts: list[dict[str, Any]], finish: str) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        body: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini"}
        if finish:
            candidate["finishReason"] = finish
        if script.usage != "never" and finish:
            count = len(script.words)
            counts = {"promptTokenCount": 7, "candidatesTokenCount": count}
            body["usageMetadata"] = {**counts, "totalTokenCount": 7 + count}
        candidate |= self.more
        return body

    @staticmethod
    def event(body: dict[str, Any]) -> bytes:
        return f"data: {json.dumps(body, ensure_ascii=False)}\r\n\r\n".encode()


@asynccontextmanager
async def service_account(
    folder: Path, *, lifetime_s: int = 3600, status: int = 200
) -> AsyncIterator[tuple[Path, list[str]]]:
    """A key file whose token endpoint is ours: its path, and the tokens that it gave."""
    given: list[str] = []

    async def token(request: web.Request) -> web.Response:
        fields = await request.post()
        assert fields["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        assert str(fields["assertion"]).count(".") == 2
        if status != 200:
            said = {"error": "invalid_grant", "error_description": "google-canary"}
            return web.json_response(said, status=status)
        given.append(f"google-canary-{len(given)}")
        answer = {"access_token": given[-1], "expires_in": lifetime_s, "token_type": "Bearer"}
        return web.json_response(answer)

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    app = web.Application()
    app.router.add_post("/token", token)
    async with TestServer(app) as server:
        path = folder / f"key-{time.monotonic_ns()}.json"
        account = {
            "type": "service_account",
            "project_id": "my-project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "a@my-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": str(server.make_url("/token")),
        }
        path.write_text(json.dumps(account), encoding="utf-8")
        yield path, given
