"""Load on an OpenAI-compatible server: a fixed mix of lengths, so many requests at once."""

import asyncio
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from fungible.bench.metrics import Summary, Timing, summarise
from fungible.bench.trace import Trace, TraceRow, synthesise

_PROMPT_WORDS, _ANSWER_TOKENS = (16, 224), (16, 96)
REQUEST_S = 300.0


@dataclass(frozen=True)
class Request:
    """A prompt of so many words, answered by exactly so many tokens."""

    text: str
    answer: int


def mix(seed: str, count: int, *, answer: int | None = None) -> list[Request]:
    """`count` requests, lengths log-uniform in fixed ranges; the same for the same seed.

    Texts differ from their first word on, so that no prefix cache can help any engine.

    Args:
        seed: Names the cell; every engine gets the same requests in it.
        count: How many.
        answer: Length of every answer, instead of the mix.
    """
    rng = random.Random(seed)

    def length(least: int, most: int) -> int:
        return int(least * math.pow(most / least, rng.random()))

    rows = [
        TraceRow(
            timestamp=0,
            input_length=length(*_PROMPT_WORDS),
            output_length=answer or length(*_ANSWER_TOKENS),
            session_id=f"{at} of {seed}",
        )
        for at in range(count)
    ]
    trace = Trace(name="mix", trace_hash="", block=_PROMPT_WORDS[1], rows=rows)
    return [
        Request(f"{row.session_id}: {synthesise(trace, row)}", row.output_length) for row in rows
    ]


async def run(url: str, model: str, requests: list[Request], concurrency: int) -> list[Timing]:
    """Keep `concurrency` requests in flight until all are answered (closed loop)."""
    timings: list[Timing] = []
    waiting = iter(enumerate(requests))
    began = time.perf_counter()
    limits = aiohttp.ClientTimeout(total=REQUEST_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=limits, connector=connector) as session:

        async def work(rows: Iterator[tuple[int, Request]]) -> None:
            for at, request in rows:
                timings.append(await _send(session, url, model, at, request, began))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(requests))):
                group.create_task(work(waiting))
    return timings


def measure(
    url: str, model: str, requests: list[Request], concurrency: int
) -> tuple[Summary, list[float], str]:
    """The run's summary, every time to first token in ms, and why a request failed, if one did."""
    timings = asyncio.run(run(url, model, requests, concurrency))
    firsts = [1000 * (one.first - one.sent) for one in timings if one.ok and one.first is not None]
    return summarise(timings), firsts, next((one.error for one in timings if one.error), "")


async def _send(
    session: aiohttp.ClientSession, url: str, model: str, at: int, request: Request, began: float
) -> Timing:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": request.text}],
        "max_tokens": request.answer,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = time.perf_counter() - began
    first = last = None
    usage: dict[str, int] = {}
    error = ""
    try:
        async with session.post(f"{url}/chat/completions", json=body) as answer:
            if answer.status != 200:
                error = f"HTTP {answer.status}: {(await answer.text())[:200]}"
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                if any(choice.get("delta", {}).get("content") for choice in chunk["choices"]):
                    last = time.perf_counter() - began
                    first = last if first is None else first
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    made = usage.get("completion_tokens", 0)
    if not error and (first is None or made != request.answer):
        error = f"{made} tokens instead of {request.answer}"
    return Timing(
        item_id=str(at),
        due=sent,
        sent=sent,
        first=first,
        last=last,
        ended=time.perf_counter() - began,
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=made,
        error=error,
    )
