"""`POST /v1/chat/completions`, written on bare ASGI: a client that leaves frees its slot."""

import asyncio
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fungible.contract.ids import new_id
from fungible.contract.openai import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    TokenLogprob,
    TopLogprob,
    UsageBody,
    parse_chat,
)
from fungible.contract.sse import DONE, encode_frame
from fungible.engine.detokenizer import Pieces
from fungible.engine.generation import CANCELLED, Generation, GenerationRequest, Output
from fungible.engine.sampler import Sampled, SamplingParams
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import (
    EngineError,
    FungibleError,
    RequestError,
    UnknownModelError,
    UnsupportedError,
)

_MAX_BODY = 10_000_000
_LONG_TEXT = 20_000  # characters; tokenising more takes long enough to be felt by other streams
_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
# Fields that would change the answer if we honoured them, and the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "prediction": (),
    "audio": (),
}


class ChatEndpoint:
    """Answers chat requests from a scheduler.

    Args:
        model: The one name that requests may ask for.
    """

    def __init__(self, scheduler: Scheduler, tokenizer: ChatTokenizer, model: str) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        chat, raw = parse_chat(await _read_body(Request(scope, receive)))
        generation = self._scheduler.submit(await self._prepare(chat, raw))
        watcher = asyncio.create_task(_cancel_when_gone(receive, generation))
        try:
            if chat.stream:
                with_usage = bool((chat.stream_options or {}).get("include_usage"))
                await self._stream(generation, send, with_usage)
            else:
                await self._complete(generation, scope, receive, send)
        finally:
            generation.cancel()
            watcher.cancel()

    async def _prepare(self, chat: ChatRequest, raw: dict[str, Any]) -> GenerationRequest:
        if chat.model != self._model:
            raise UnknownModelError(
                f"model {chat.model!r} is not served here",
                hint=f"this engine serves {self._model!r}",
                param="model",
            )
        _check_supported(chat, raw)
        text = self._tokenizer.render(chat.messages)
        if len(text) < _LONG_TEXT:
            prompt = self._tokenizer.encode(text)
        else:
            prompt = await asyncio.to_thread(self._tokenizer.encode, text)
        stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
        return GenerationRequest(
            prompt=tuple(prompt),
            sampling=SamplingParams(
                temperature=1.0 if chat.temperature is None else chat.temperature,
                top_p=1.0 if chat.top_p is None else chat.top_p,
                seed=chat.seed,
                top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
            ),
            max_tokens=chat.max_completion_tokens or chat.max_tokens,
            stops=tuple(stops),
            ignore_eos=raw.get("ignore_eos") is True,
            stream=bool(chat.stream),
        )

    async def _complete(
        self, generation: Generation, scope: Scope, receive: Receive, send: Send
    ) -> None:
        (output,) = await generation.outputs()
        if output.finish_reason == CANCELLED:
            return
        choice = Choice(
            message=AssistantMessage(content=output.text),
            logprobs=self._logprobs(generation, output),
            finish_reason=output.finish_reason,
        )
        body = ChatCompletion(
            id=new_id("chatcmpl-"),
            created=int(time.time()),
            model=self._model,
            choices=[choice],
            usage=_usage(generation, output),
        )
        response = Response(msgspec.json.encode(body), media_type="application/json")
        await response(scope, receive, send)

    async def _stream(self, generation: Generation, send: Send, with_usage: bool) -> None:
        """Send server-sent events; nothing, not even the head, goes out before the first token."""
        outputs = await generation.outputs()
        writer = _ChunkWriter(self._model, with_usage)
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEAD})
        body = writer.opening()
        try:
            while True:
                for output in outputs:
                    if output.finish_reason == CANCELLED:
                        return
                    body += writer.frames(output, self._logprobs(generation, output))
                last = outputs[-1]
                if last.finish_reason is not None:
                    break
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = b""
                outputs = await generation.outputs()
            body += writer.closing(_usage(generation, last))
        except FungibleError as error:
            body = _error_frame(error)
        except asyncio.CancelledError:
            body = _error_frame(EngineError("the engine is shutting down"))
            await send({"type": "http.response.body", "body": body, "more_body": False})
            raise
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _logprobs(self, generation: Generation, output: Output) -> ChoiceLogprobs | None:
        if generation.request.sampling.top_logprobs is None:
            return None
        pieces = self._tokenizer.pieces
        return ChoiceLogprobs(content=[_token_logprob(pieces, one) for one in output.tokens])


class _ChunkWriter:
    """Encodes the events of one stream."""

    def __init__(self, model: str, with_usage: bool) -> None:
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())
        self._model = model
        self._with_usage = with_usage

    def opening(self) -> bytes:
        """The event that names the role."""
        return self._frame([ChunkChoice(delta=Delta(role="assistant", content=""))])

    def frames(self, output: Output, logprobs: ChoiceLogprobs | None) -> bytes:
        """Events of one output: its text, and its end by itself."""
        data = b""
        if output.text or output.tokens:
            choice = ChunkChoice(delta=Delta(content=output.text), logprobs=logprobs)
            data = self._frame([choice])
        if output.finish_reason is not None:
            choice = ChunkChoice(delta=Delta(), finish_reason=output.finish_reason)
            data += self._frame([choice])
        return data

    def closing(self, usage: UsageBody) -> bytes:
        """Usage, when it was asked for, and `[DONE]`."""
        return self._frame([], usage) + DONE if self._with_usage else DONE

    def _frame(self, choices: list[ChunkChoice], usage: UsageBody | None = None) -> bytes:
        chunk = ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
        return encode_frame(msgspec.json.encode(chunk))


async def _read_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise RequestError(f"the request body is larger than {_MAX_BODY} bytes")
    return body


async def _cancel_when_gone(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


def _check_supported(chat: ChatRequest, raw: dict[str, Any]) -> None:
    for name, neutral in _NEUTRAL.items():
        value = raw.get(name)
        if value is not None and value not in neutral:
            raise UnsupportedError(
                f"{name} is not supported by this engine", hint=f"leave {name} out", param=name
            )
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    if chat.stream_options is not None and not chat.stream:
        raise RequestError("stream_options needs stream to be true", param="stream_options")
    if chat.stop == "" or (isinstance(chat.stop, list) and "" in chat.stop):
        raise RequestError("stop must not be an empty string", param="stop")


def _error_frame(error: FungibleError) -> bytes:
    return encode_frame(msgspec.json.encode(error.to_openai()))


def _usage(generation: Generation, output: Output) -> UsageBody:
    prompt, answer = len(generation.request.prompt), output.completion_tokens
    return UsageBody(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _token_logprob(pieces: Pieces, sampled: Sampled) -> TokenLogprob:
    top = [_spelled(pieces, token, logprob) for token, logprob in sampled.top]
    own = _spelled(pieces, sampled.token, sampled.logprob or 0.0)
    return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=top)


def _spelled(pieces: Pieces, token: int, logprob: float) -> TopLogprob:
    data = pieces.spelled(token)
    return TopLogprob(token=data.decode(errors="replace"), logprob=logprob, bytes=list(data))
