"""`POST /v1/chat/completions`, written on bare ASGI: a client that leaves frees its slot."""

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fungible.contract.openai import ChatRequest, parse_chat
from fungible.engine.answers import AnswerGroup, repeated
from fungible.engine.chat_request import AnswerForm, ToolUse, check_supported, form_from
from fungible.engine.chat_stream import ChatAnswer
from fungible.engine.exchange import cancel_when_gone, read_body, request_id_of, send_stream
from fungible.engine.generation import GenerationRequest
from fungible.engine.sampling_fields import check_number, sampling_from
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer
from fungible.engine.tool_calls import ToolParser, parser_for
from fungible.errors import UnknownModelError

_LONG_TEXT = 20_000  # characters; tokenising more takes long enough to be felt by other streams


class _Plan(msgspec.Struct, kw_only=True):
    requests: list[GenerationRequest]
    use: ToolUse


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
        body = await read_body(Request(scope, receive))
        chat, raw = parse_chat(body)
        plan = await self._plan(chat, raw, request_id_of(scope))
        group = AnswerGroup(self._scheduler, plan.requests, per_prompt=len(plan.requests))
        watcher = asyncio.create_task(cancel_when_gone(receive, group))
        answer = self._answer(chat, plan)
        try:
            if chat.stream:
                await send_stream(group, answer, send)
            elif outputs := await group.whole():
                body = answer.whole(outputs, group.usage())
                await Response(body, media_type="application/json")(scope, receive, send)
        finally:
            group.close()
            watcher.cancel()

    async def _plan(self, chat: ChatRequest, raw: dict[str, Any], request_id: str) -> _Plan:
        if chat.model != self._model:
            raise UnknownModelError(
                f"model {chat.model!r} is not served here",
                hint=f"this engine serves {self._model!r}",
                param="model",
            )
        check_supported(chat, raw)
        top = (chat.top_logprobs or 0) if chat.logprobs else None
        most = chat.max_completion_tokens or chat.max_tokens
        settings = sampling_from(
            raw, self._scheduler.limits.vocab, top_logprobs=top, max_tokens=most
        )
        check_number(1, settings.count, self._scheduler.capacity)
        form = form_from(raw, self._tokenizer.tool_format)
        request = GenerationRequest(
            prompt=tuple(await self._prompt(chat, form)),
            sampling=settings.sampling,
            max_tokens=most,
            stops=settings.stops,
            ignore_eos=settings.ignore_eos,
            stream=bool(chat.stream),
            stop_token_ids=settings.stop_token_ids,
            min_tokens=settings.min_tokens,
            request_id=request_id,
        )
        if form.grammar is not None:
            compiled = await asyncio.to_thread(self._tokenizer.grammars.compile, form.grammar)
            request = msgspec.structs.replace(request, constraint=compiled)
        return _Plan(requests=repeated(request, settings.count), use=form.use)

    async def _prompt(self, chat: ChatRequest, form: AnswerForm) -> list[int]:
        text = self._tokenizer.render(chat.messages, form.use.tools)
        if len(text) < _LONG_TEXT:
            return self._tokenizer.encode(text)
        return await asyncio.to_thread(self._tokenizer.encode, text)

    def _answer(self, chat: ChatRequest, plan: _Plan) -> ChatAnswer:
        return ChatAnswer(
            self._model,
            pieces=self._tokenizer.pieces if chat.logprobs else None,
            parsers=[self._parser(plan.use) for _ in plan.requests],
            with_usage=bool((chat.stream_options or {}).get("include_usage")),
        )

    def _parser(self, use: ToolUse) -> ToolParser | None:
        return parser_for(self._tokenizer.tool_format, use.names) if use.tools else None
