"""An OpenAI-compatible server on the loopback that answers by a rule of the test's own."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[dict[str, Any]], str]


def logprobs(words: list[str], sharpness: float = 3.0) -> list[dict[str, Any]]:
    """One entry a word: itself and two others that depend on it."""
    entries = []
    for word in words:
        others = [f"{word}-{at}" for at in range(2)]
        weights = [math.exp(sharpness), 1.0, 0.5]
        total = sum(weights)
        top = [
            {"token": token, "logprob": math.log(weight / total), "bytes": list(token.encode())}
            for token, weight in zip([word, *others], weights, strict=True)
        ]
        entries.append({**top[0], "top_logprobs": top})
    return entries


@asynccontextmanager
async def scripted_upstream(
    answer: Answer,
    *,
    sharpness: float = 3.0,
    first_token_s: float = 0.0,
    status: Callable[[dict[str, Any]], int] = lambda _: 200,
) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Its base URL up to `/v1`, and the bodies that it was sent."""
    seen: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        seen.append(body)
        if (code := status(body)) != 200:
            return web.json_response({"error": {"message": "scripted"}}, status=code)
        words = answer(body).split()
        prompt = sum(len(turn["content"].split()) for turn in body["messages"])
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(words),
            "total_tokens": prompt + len(words),
        }
        head = {"id": hashlib.md5(str(body).encode()).hexdigest(), "created": 1, "model": "m"}
        if not body.get("stream"):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(words)},
                "logprobs": {"content": logprobs(words, sharpness)},
                "finish_reason": "stop",
            }
            return web.json_response({**head, "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(first_token_s)
        for word in words:
            delta = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
            await _event(response, {**head, "choices": [delta]})
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await _event(response, {**head, "choices": [last]})
        await _event(response, {**head, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1")), seen


async def _event(response: web.StreamResponse, body: dict[str, Any]) -> None:
    await response.write(b"data: " + msgspec.json.encode(body) + b"\n\n")
