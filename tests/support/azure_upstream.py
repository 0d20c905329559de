"""Azure OpenAI on the loopback: both paths, both ways to authorize, checked by the SDK's types."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from openai.types.chat import completion_create_params as chat
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams

from support.sdk_types import check_shape
from support.upstream import Seen, Upstream

_PATH = re.compile(r"/openai/(?:v1|deployments/(?P<deployment>[^/]+))/(?P<endpoint>.+)")


class AzureUpstream(Upstream):
    """`authorized` holds the headers that it lets in."""

    def __init__(self) -> None:
        super().__init__()
        self.authorized: set[tuple[str, str]] = {("api-key", "azure-canary")}

    def check(self, seen: Seen, raw: bytes) -> None:
        address = urlsplit(seen.path)
        found = _PATH.fullmatch(address.path)
        assert found, f"no such path: {seen.path}"
        if found["deployment"]:
            assert parse_qs(address.query).get("api-version"), "api-version is missing"
        assert self.authorized & set(seen.headers.items()), "not authorized"
        assert seen.headers["content-type"] == "application/json"
        streamed, whole = (
            chat.CompletionCreateParamsStreaming,
            chat.CompletionCreateParamsNonStreaming,
        )
        kinds = {
            "chat/completions": streamed if self.streamed(seen) else whole,
            "completions": CompletionCreateParamsNonStreaming,
            "embeddings": EmbeddingCreateParams,
        }
        check_shape(kinds[found["endpoint"]], seen.body)


@asynccontextmanager
async def machine_identity(
    *, lifetime_s: float, status: int = 200
) -> AsyncIterator[tuple[str, list[str]]]:
    """An App Service identity endpoint: its URL, and the tokens that it gave."""
    given: list[str] = []

    async def token(request: web.Request) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == "header-canary"
        assert request.query["resource"] == "https://cognitiveservices.azure.com"
        if status != 200:
            return web.json_response({"error": "scripted header-canary"}, status=status)
        given.append(f"entra-canary-{len(given)}")
        return web.json_response(
            {
                "access_token": given[-1],
                "expires_on": str(int(time.time() + lifetime_s)),
                "resource": request.query["resource"],
                "token_type": "Bearer",
            }
        )

    app = web.Application()
    app.router.add_get("/token", token)
    async with TestServer(app) as server:
        yield str(server.make_url("/token")), given
