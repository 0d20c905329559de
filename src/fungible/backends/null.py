"""A backend that runs nothing: scripted answers, latencies and faults. For tests, and for users.

Options (`[backend.NAME.options]`):

| option | default | meaning |
|---|---|---|
| `text` | `null answer` | what it says, one word a chunk |
| `tokens` | | say this many words instead |
| `tool` | | `{ name, arguments }`: call this function, where the request offers it |
| `ttft_ms`, `itl_ms` | 0 | before the first word; between words |
| `fail_rate` | 0 | share of requests refused, spread evenly and reproducibly |
| `fail_status` | 503 | with this HTTP status |
| `seed` | 0 | which requests are refused first |
| `cut_after` | | break a stream after this many words |
| `usage` | true | whether it reports token counts |

A call is streamed in pieces of eight characters of its arguments, each a token. A request gets
text as before if it does not offer the function, says `tool_choice = "none"`, or ends with a
tool's result.

It speaks chat, completions, `/tokenize` (a word is a token) and embeddings, whose vectors are
simulated. It keeps to `max_tokens` and says so by `finish_reason`.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.null_forms import (
    CallForm,
    ChatForm,
    CompletionForm,
    Tool,
    embeddings,
    offers,
)
from fungible.backends.upstream_errors import error_for_status
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.contract.openai import UsageBody
from fungible.contract.sse import DONE
from fungible.errors import ConfigError, RequestError, StreamBrokenError


class NullOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The script; see the module's table."""

    text: str = "null answer"
    tokens: int | None = None
    tool: Tool | None = None
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    fail_rate: float = 0.0
    fail_status: int = 503
    seed: int = 0
    cut_after: int | None = None
    usage: bool = True


class NullBackend:
    """Answers by script, in process."""

    capabilities = Capabilities(
        endpoints=frozenset({"chat/completions", "completions", "embeddings", "tokenize"}),
        seed=False,
        stop=False,
        logprobs=False,
    )

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
        try:
            return self._reply(request, options)
        except RequestError as error:
            raise error_for_status(self.name, 400, error.message.encode()) from error

    def _reply(self, request: InferenceRequest, options: NullOptions) -> Reply:
        if request.endpoint == "embeddings":
            return _WholeReply(embeddings(request.body, usage=options.usage))
        if request.endpoint == "tokenize":
            count = ChatForm(request).prompt_words(request.body)
            return _WholeReply(msgspec.json.encode({"count": count}))
        if request.endpoint == "completions":
            return _NullReply(request, options, CompletionForm(request))
        if options.tool is not None and offers(request.body, options.tool.name):
            return _NullReply(request, options, CallForm(request, options.tool))
        return _NullReply(request, options, ChatForm(request))

    async def healthy(self) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """Nothing to close."""


class _WholeReply:
    """An answer that was ready at once."""

    status = 200
    content_type = "application/json"

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body."""
        yield self._body

    async def close(self) -> None:
        """Nothing to cancel."""


class _NullReply:
    status = 200

    def __init__(self, request: InferenceRequest, options: NullOptions, form: ChatForm) -> None:
        self.content_type = "text/event-stream" if request.stream else "application/json"
        self._options = options
        self._request = request
        self._form = form
        pieces = form.pieces(options.text, options.tokens)
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
        self._finish = form.finish
        if isinstance(limit, int) and limit < len(pieces):
            pieces, self._finish = pieces[:limit], "length"
        self._pieces = pieces
        prompt = form.prompt_words(request.body)
        self._usage = UsageBody(
            prompt_tokens=prompt,
            completion_tokens=len(pieces),
            total_tokens=prompt + len(pieces),
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body: one event a piece, or one JSON object."""
        form, options = self._form, self._options
        if not self._request.stream:
            await _pause(options.itl_ms * len(self._pieces))
            usage = self._usage if options.usage else None
            yield form.whole("".join(self._pieces), self._finish, usage)
            return
        for at, piece in enumerate(self._pieces):
            if at == options.cut_after:
                raise StreamBrokenError("null: the stream was cut, as scripted")
            if at:
                await _pause(options.itl_ms)
            yield form.piece(piece, first=at == 0)
        yield form.end(self._finish)
        if options.usage and _wants_usage(self._request):
            yield form.counts(self._usage)
        yield DONE

    async def close(self) -> None:
        """Nothing to cancel."""


def _wants_usage(request: InferenceRequest) -> bool:
    return bool((request.body.get("stream_options") or {}).get("include_usage"))


async def _pause(ms: float) -> None:
    if ms > 0:
        await asyncio.sleep(ms / 1000)
