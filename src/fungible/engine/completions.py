"""`POST /v1/completions`: text or tokens in, the model's continuation or its scores out."""

import asyncio
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fungible.contract.completions import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionChoice,
    CompletionRequest,
    parse_completion,
    read_prompts,
)
from fungible.contract.ids import new_id
from fungible.contract.openai import UsageBody
from fungible.contract.sse import DONE, encode_frame
from fungible.engine.answers import AnswerGroup, repeated
from fungible.engine.bare_prompt import BarePrompt, read_prompt
from fungible.engine.completion_choice import ChoiceWriter, Shown
from fungible.engine.constraint import Constraint
from fungible.engine.exchange import cancel_when_gone, read_body, request_id_of, send_stream
from fungible.engine.generation import GenerationRequest, Output
from fungible.engine.grammar_fields import grammar_from
from fungible.engine.sampling_fields import AnswerSettings, check_number, sampling_from
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import (
    ContextLengthError,
    RequestError,
    UnknownModelError,
    UnsupportedError,
)

_LONG_TEXT = 20_000  # characters; tokenising more takes long enough to be felt by other streams
# Fields that would change the answer if we honoured them, and the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "prompt_embeds": (),
    "use_beam_search": (False,),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "truncate_prompt_tokens": (),
}


class _Plan(msgspec.Struct, kw_only=True):
    prompts: list[BarePrompt]
    requests: list[GenerationRequest]
    count: int
    shown: Shown
    stream: bool
    with_usage: bool


class CompletionsEndpoint:
    """Answers completion requests from a scheduler.

    Args:
        model: The one name that requests may ask for.
    """

    def __init__(self, scheduler: Scheduler, tokenizer: ChatTokenizer, model: str) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        asked, raw = parse_completion(await read_body(Request(scope, receive)))
        plan = await self._plan(asked, raw, request_id_of(scope))
        group = AnswerGroup(self._scheduler, plan.requests, per_prompt=plan.count)
        watcher = asyncio.create_task(cancel_when_gone(receive, group))
        answer = _Answer(self._model, plan, self._tokenizer)
        try:
            if plan.stream:
                await send_stream(group, answer, send)
            elif outputs := await group.whole():
                body = answer.whole(outputs, group.usage())
                await Response(body, media_type="application/json")(scope, receive, send)
        finally:
            group.close()
            watcher.cancel()

    async def _plan(self, asked: CompletionRequest, raw: dict[str, Any], request_id: str) -> _Plan:
        if asked.model != self._model:
            raise UnknownModelError(
                f"model {asked.model!r} is not served here",
                hint=f"this engine serves {self._model!r}",
                param="model",
            )
        settings = sampling_from(
            raw,
            self._scheduler.limits.vocab,
            top_logprobs=asked.logprobs,
            max_tokens=_most_tokens(asked),
        )
        prompts = read_prompts(asked.prompt)
        _check_supported(asked, raw, settings)
        check_number(len(prompts), settings.count, self._scheduler.capacity)
        constraint = await self._constraint(raw)
        if sum(map(len, prompts)) < _LONG_TEXT:
            read = self._read_prompts(prompts)
        else:
            read = await asyncio.to_thread(self._read_prompts, prompts)
        shown = Shown(
            echo=asked.echo is True,
            answer=asked.max_tokens != 0,
            logprobs=asked.logprobs,
            prompt_logprobs=settings.prompt_logprobs,
        )
        requests = [
            one
            for prompt in read
            for one in repeated(
                _request(
                    prompt, asked, settings, shown, request_id=request_id, constraint=constraint
                ),
                settings.count,
            )
        ]
        return _Plan(
            prompts=read,
            requests=requests,
            count=settings.count,
            shown=shown,
            stream=asked.stream is True,
            with_usage=bool((asked.stream_options or {}).get("include_usage")),
        )

    async def _constraint(self, raw: dict[str, Any]) -> Constraint | None:
        grammar = grammar_from(raw)
        if grammar is None:
            return None
        return await asyncio.to_thread(self._tokenizer.grammars.compile, grammar)

    def _read_prompts(self, prompts: list[str | list[int]]) -> list[BarePrompt]:
        limits = self._scheduler.limits
        read = [read_prompt(one, self._tokenizer, limits.vocab) for one in prompts]
        longest = max(len(one.tokens) for one in read)
        if longest >= limits.context:
            raise ContextLengthError(
                f"the prompt is {longest} tokens long; the context holds {limits.context}, "
                "prompt and answer together",
                hint="shorten the prompt, or serve with a larger --context",
                param="prompt",
            )
        return read


class _Answer:
    """Encodes the response to one request, whole or as events."""

    def __init__(self, model: str, plan: _Plan, tokenizer: ChatTokenizer) -> None:
        self._id = new_id("cmpl-")
        self._created = int(time.time())
        self._model = model
        self._plan = plan
        self._writers = [
            ChoiceWriter(at, plan.prompts[at // plan.count], plan.shown, tokenizer)
            for at in range(len(plan.requests))
        ]

    def whole(self, outputs: list[Output], usage: UsageBody) -> bytes:
        """The body of a response that does not stream."""
        choices = [
            writer.choice(output) for writer, output in zip(self._writers, outputs, strict=True)
        ]
        return self._body(choices, self._shown_usage(usage))

    def opening(self) -> bytes:
        """No event comes before the text."""
        return b""

    def frames(self, index: int, output: Output) -> bytes:
        """The event of one output."""
        return encode_frame(self._body([self._writers[index].choice(output)]))

    def closing(self, usage: UsageBody) -> bytes:
        """Usage, when it was asked for, and `[DONE]`."""
        if not self._plan.with_usage:
            return DONE
        return encode_frame(self._body([], self._shown_usage(usage))) + DONE

    def _body(self, choices: list[CompletionChoice], usage: UsageBody | None = None) -> bytes:
        return msgspec.json.encode(
            Completion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=choices,
                usage=usage,
            )
        )

    def _shown_usage(self, usage: UsageBody) -> UsageBody:
        if self._plan.shown.answer:
            return usage
        prompt = usage.prompt_tokens
        return msgspec.structs.replace(usage, completion_tokens=0, total_tokens=prompt)


def _request(
    prompt: BarePrompt,
    asked: CompletionRequest,
    settings: AnswerSettings,
    shown: Shown,
    *,
    request_id: str,
    constraint: Constraint | None,
) -> GenerationRequest:
    echoed = asked.logprobs if shown.echo else None
    wanted = [one for one in (echoed, settings.prompt_logprobs) if one is not None]
    return GenerationRequest(
        prompt=prompt.tokens,
        sampling=settings.sampling,
        max_tokens=max(
            _most_tokens(asked), 1
        ),  # scoring a prompt ends with one token, which nobody sees
        stops=settings.stops,
        ignore_eos=settings.ignore_eos,
        stream=asked.stream is True,
        stop_token_ids=settings.stop_token_ids,
        min_tokens=settings.min_tokens,
        constraint=constraint,
        prompt_logprobs=max(wanted, default=None),
        continues=prompt.continues,
        request_id=request_id,
    )


def _most_tokens(asked: CompletionRequest) -> int:
    return DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens


def _check_supported(
    asked: CompletionRequest, raw: dict[str, Any], settings: AnswerSettings
) -> None:
    for name, neutral in _NEUTRAL.items():
        value = raw.get(name)
        if value is not None and value not in neutral:
            raise UnsupportedError(
                f"{name} is not supported by this engine", hint=f"leave {name} out", param=name
            )
    if asked.best_of is not None and asked.best_of < settings.count:
        raise RequestError(
            f"best_of is {asked.best_of}; it must be at least n, {settings.count}",
            param="best_of",
        )
    if asked.best_of is not None and asked.best_of > settings.count:
        raise UnsupportedError(
            "best_of is not supported by this engine",
            hint="ask for n answers with logprobs, and choose among them",
            param="best_of",
        )
    scores = asked.echo or settings.prompt_logprobs is not None
    if asked.max_tokens == 0 and not scores:
        raise RequestError(
            "max_tokens is 0, so there is nothing to answer",
            hint="set echo to score the prompt, or max_tokens to 1 or more",
            param="max_tokens",
        )
    if settings.prompt_logprobs is not None and asked.stream:
        raise UnsupportedError(
            "prompt_logprobs cannot be streamed",
            hint="use echo with logprobs, or leave stream out",
            param="prompt_logprobs",
        )
