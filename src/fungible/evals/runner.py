"""Puts a suite to one backend, through the same dispatch that serves traffic."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator

import msgspec

from fungible.contract.events import AttemptEvent, EvalItemEvent
from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest
from fungible.contract.openai import ChoiceLogprobs
from fungible.errors import InputError, UpstreamError
from fungible.evals.results import ItemResult
from fungible.evals.suite import Item, Suite
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher

__all__ = ["ItemResult", "run_suite"]

SEED = 7
TOP_LOGPROBS = 20


class _Message(msgspec.Struct, kw_only=True):
    content: str | None = None


class _Choice(msgspec.Struct, kw_only=True):
    message: _Message
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct, kw_only=True):
    choices: list[_Choice]


async def run_suite(
    dispatcher: Dispatcher,
    suite: Suite,
    backend: str,
    *,
    model: str,
    run_id: str,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
    spool: SpoolWriter | None = None,
) -> list[ItemResult]:
    """One result per item, in the suite's order; a failed request has a score of `None`.

    Every result is recorded as an `EvalItemEvent` before the next item starts in its place.

    Args:
        dispatcher: Started; sends with `kind="eval"` to exactly `backend`.
        suite: What to ask.
        backend: Its name in the configuration.
        model: The model's name, as applications know it.
        run_id: Groups the records of this run.
        concurrency: Requests in flight.
        progress: Called with (items done, all items).
        spool: Where records go; the dispatcher's own when not given.

    Raises:
        InputError: `concurrency` is below 1.
        UnavailableError: The backend is not configured.
        DiskError: A record could not be written.
    """
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}; it must be at least 1")
    results: dict[str, ItemResult] = {}
    records = spool or dispatcher.spool
    waiting = iter(suite.items)

    async def work(items: Iterator[Item]) -> None:
        for item in items:
            result = await _ask(dispatcher, item, backend, model, run_id)
            await records.commit(_event(suite, result, backend, run_id))
            results[item.id] = result
            if progress is not None:
                progress(len(results), len(suite.items))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(suite.items))):
                group.create_task(work(waiting))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [results[item.id] for item in suite.items]


async def _ask(
    dispatcher: Dispatcher, item: Item, backend: str, model: str, run_id: str
) -> ItemResult:
    request = InferenceRequest(
        request_id=new_id("req_"),
        model=model,
        body={
            "model": model,
            "messages": msgspec.to_builtins(item.messages),
            "max_tokens": item.max_tokens,
            "temperature": 0,
            "seed": SEED,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        },
        kind="eval",
        run_id=run_id,
        item_id=item.id,
    )
    try:
        dispatched = await dispatcher.dispatch(request, backend=backend)
        try:
            body = b"".join([chunk async for chunk in dispatched.chunks()])
        finally:
            await dispatched.aclose()
    except UpstreamError as error:
        return _failed(item, error.message)
    attempt = dispatched.attempt
    assert attempt is not None  # noqa: S101  # the body was read to its end
    try:
        choice = msgspec.json.decode(body, type=_Answer).choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        return _failed(item, f"not a chat completion: {error}", attempt)
    text = choice.message.content or ""
    emitted = [count for count in (attempt.out_visible, attempt.out_reasoning) if count is not None]
    return ItemResult(
        item_id=item.id,
        cluster=item.cluster,
        score=item.scorer.score(text),
        text=text,
        tokens=choice.logprobs.content if choice.logprobs else [],
        output_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        output_tokens=sum(emitted) if emitted else None,
        finish_reason=choice.finish_reason or "",
        attempt_id=attempt.attempt_id,
    )


def _failed(item: Item, why: str, attempt: AttemptEvent | None = None) -> ItemResult:
    return ItemResult(
        item_id=item.id,
        cluster=item.cluster,
        score=None,
        attempt_id=attempt.attempt_id if attempt else "",
        error=why,
    )


def _event(suite: Suite, result: ItemResult, backend: str, run_id: str) -> EvalItemEvent:
    return EvalItemEvent(
        run_id=run_id,
        suite=suite.name,
        suite_hash=suite.suite_hash,
        item_id=result.item_id,
        cluster=result.cluster,
        backend=backend,
        attempt_id=result.attempt_id,
        score=result.score,
        output_hash=result.output_hash,
        output_tokens=result.output_tokens,
        finish_reason=result.finish_reason,
        at_ns=time.time_ns(),
    )
