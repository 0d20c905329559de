"""A realistic burst through the stock OpenAI client: it knows a base URL and a key, no more."""

import asyncio
import itertools
import random
from collections.abc import Callable

import msgspec
import openai
from openai.types.chat import ChatCompletionMessageParam

from fungible.quickstart.setup import DEMO_KEYS, MODEL

_QUESTIONS = (
    "Name three primary colours.",
    "Write a short greeting for a new colleague.",
    "What is the boiling point of water in Celsius?",
    "Suggest a title for a note about gardening.",
    "Which planet is known as the red planet?",
    "Give one reason to drink water.",
    "What is the opposite of cold?",
    "Complete the sentence: The early bird catches the",
    "List two fruits that are yellow.",
    "Say thank you in a friendly way.",
    "What do bees make?",
    "Name a famous river in Africa.",
)


class BurstResult(msgspec.Struct, kw_only=True):
    """What the client saw: counts, and the errors by class name."""

    requests: int = 0
    answered: int = 0
    streamed: int = 0
    errors: dict[str, int] = {}


async def burst(
    base_url: str,
    *,
    requests: int,
    concurrency: int,
    max_tokens: int = 16,
    seed: int = 0,
    stop: asyncio.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BurstResult:
    """Send `requests` chat completions, half of them streamed, or fewer when `stop` is set."""
    rng = random.Random(seed)  # noqa: S311  # a reproducible shape of traffic, not a secret
    result = BurstResult()
    work = itertools.islice(itertools.count(), requests)
    # One client per key: the SDK's own connection pool and retries, switched off here so that
    # what is counted is what the gateway did.
    clients = [
        openai.AsyncOpenAI(base_url=base_url, api_key=secret, max_retries=0, timeout=120)
        for secret in DEMO_KEYS
    ]

    async def worker() -> None:
        for number in work:
            if stop is not None and stop.is_set():
                return
            client = rng.choice(clients)
            question = rng.choice(_QUESTIONS)
            result.requests += 1
            try:
                await _ask(client, question, number, stream=number % 2 == 0, tokens=max_tokens)
                result.answered += 1
                result.streamed += number % 2 == 0
            except openai.OpenAIError as error:
                name = type(error).__name__
                result.errors[name] = result.errors.get(name, 0) + 1
                await asyncio.sleep(0.2)
            if progress is not None:
                progress(result.requests, requests)

    try:
        await asyncio.gather(*(worker() for _ in range(concurrency)))
    finally:
        for client in clients:
            await client.close()
    return result


async def _ask(
    client: openai.AsyncOpenAI, question: str, number: int, *, stream: bool, tokens: int
) -> None:
    feature = ("chat", "search", "drafts")[number % 3]
    metadata = {"feature": feature, "session": f"session-{number % 40}"}
    completions = client.chat.completions
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    if stream:
        chunks = await completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=tokens,
            temperature=0,
            metadata=metadata,
            stream=True,
        )
        async for _ in chunks:
            pass
        return
    await completions.create(
        model=MODEL, messages=messages, max_tokens=tokens, temperature=0, metadata=metadata
    )
