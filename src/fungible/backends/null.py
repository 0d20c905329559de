"""A backend that runs nothing: scripted answers, latencies and faults. For tests, and for users.

Options (`[backend.NAME.options]`):

| option | default | meaning |
|---|---|---|
| `text` | `null answer` | what it says, one word a chunk |
| `tokens` | | say this many words instead |
| `ttft_ms`, `itl_ms` | 0 | before the first word; between words |
| `fail_rate` | 0 | share of requests refused, spread evenly and reproducibly |
| `fail_status` | 503 | with this HTTP status |
| `seed` | 0 | which requests are refused first |
| `cut_after` | | break a stream after this many words |
| `usage` | true | whether it reports token counts |

It keeps to `max_tokens` (a word is a token) and says so by `finish_reason`.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.upstream_errors import error_for_status
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.contract.openai import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    UsageBody,
)
from fungible.contract.sse import DONE, encode_frame
from fungible.errors import ConfigError, StreamBrokenError


class NullOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The script; see the module's table."""

    text: str = "null answer"
    tokens: int | None = None
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    fail_rate: float = 0.0
    fail_status: int = 503
    seed: int = 0
    cut_after: int | None = None
    usage: bool = True


class NullBackend:
    """Answers by script, in process."""

    capabilities = Capabilities(seed=False, stop=False, logprobs=False)

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        try:
            self._options = msgspec.convert(settings.options, NullOptions)
        except msgspec.ValidationError as error:
            raise ConfigError(f"backend.{name}.options: {error}") from error
        # Multiples of the golden ratio: neighbouring seeds begin far apart.
        self._owed = self._options.seed * 0.618033988749895 % 1.0

    async def start(self) -> None:
        """Nothing to open."""

    async def send(self, request: InferenceRequest) -> Reply:
        """A scripted answer, or the scripted failure."""
        options = self._options
        await _pause(options.ttft_ms)
        self._owed += options.fail_rate
        if self._owed >= 1.0:
            self._owed -= 1.0
            raise error_for_status(self.name, options.fail_status, b"scripted failure")
        turns = request.body.get("messages", [])
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise error_for_status(self.name, 400, b"messages must be a list of objects")
        return _NullReply(request, options)

    async def healthy(self) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """Nothing to close."""


class _NullReply:
    status = 200

    def __init__(self, request: InferenceRequest, options: NullOptions) -> None:
        self.content_type = "text/event-stream" if request.stream else "application/json"
        self._options = options
        self._request = request
        count = options.tokens
        words = options.text.split() if count is None else ["null"] * count
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
        self._finish = "stop"
        if isinstance(limit, int) and limit < len(words):
            words, self._finish = words[:limit], "length"
        self._words = [word if at == 0 else f" {word}" for at, word in enumerate(words)]
        prompt = sum(_words(turn.get("content")) for turn in request.body.get("messages", []))
        self._usage = UsageBody(
            prompt_tokens=prompt,
            completion_tokens=len(words),
            total_tokens=prompt + len(words),
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body: one event a word, or one JSON object."""
        head = {"id": f"null-{self._request.request_id}", "created": int(time.time())}
        if not self._request.stream:
            await _pause(self._options.itl_ms * len(self._words))
            choice = Choice(
                message=AssistantMessage(content="".join(self._words)),
                finish_reason=self._finish,
            )
            answer = ChatCompletion(**head, model="null", choices=[choice], usage=self._usage)  # type: ignore[arg-type]
            body = msgspec.to_builtins(answer)
            if not self._options.usage:
                del body["usage"]
            yield msgspec.json.encode(body)
            return
        for at, word in enumerate(self._words):
            if at == self._options.cut_after:
                raise StreamBrokenError("null: the stream was cut, as scripted")
            if at:
                await _pause(self._options.itl_ms)
            delta = Delta(role="assistant" if at == 0 else None, content=word)
            yield self._frame(head, [ChunkChoice(delta=delta)])
        yield self._frame(head, [ChunkChoice(delta=Delta(), finish_reason=self._finish)])
        if self._options.usage and _wants_usage(self._request):
            yield self._frame(head, [], self._usage)
        yield DONE

    def _frame(
        self, head: dict[str, object], choices: list[ChunkChoice], usage: UsageBody | None = None
    ) -> bytes:
        chunk = ChatChunk(**head, model="null", choices=choices, usage=usage)  # type: ignore[arg-type]
        return encode_frame(msgspec.json.encode(chunk))

    async def close(self) -> None:
        """Nothing to cancel."""


def _words(content: object) -> int:
    """Words of a turn's text; other parts cost nothing here."""
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return sum(len(str(part.get("text", "")).split()) for part in parts if isinstance(part, dict))


def _wants_usage(request: InferenceRequest) -> bool:
    return bool((request.body.get("stream_options") or {}).get("include_usage"))


async def _pause(ms: float) -> None:
    if ms > 0:
        await asyncio.sleep(ms / 1000)
