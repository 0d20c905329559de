"""What a backend honours, found out by asking it. Every question is an attempt with a row."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from fungible.contract.events import AttemptEvent
from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest
from fungible.errors import UnsupportedError, UpstreamError, UpstreamRejectedError
from fungible.routing.dispatch import Dispatcher

PROMPT = "Count from one to ten in words."


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried.

    Attributes:
        outcome: `honoured`; `refused` with a clear error; `ignored`, accepted without doing
            it; or `failed`.
        required: Whether an application cannot do without it.
    """

    name: str
    outcome: Literal["honoured", "refused", "ignored", "failed"]
    required: bool
    detail: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A body as JSON (empty for a stream), its text and its row."""

    body: dict[str, Any]
    text: str
    row: AttemptEvent


class Asker:
    """Sends questions to one backend, as evaluation traffic of one run."""

    def __init__(self, dispatcher: Dispatcher, backend: str, model: str) -> None:
        self._dispatcher = dispatcher
        self._backend = backend
        self._model = model
        self.run_id = new_id("run_")

    async def ask(self, *, stream: bool = False, **fields: object) -> Answer:
        """One answer to `PROMPT`, read to its end.

        Raises:
            UpstreamError: The backend failed, or refused the request.
        """
        turn = {"role": "user", "content": PROMPT}
        body = {"model": self._model, "messages": [turn], "max_tokens": 24, "temperature": 0}
        request = InferenceRequest(
            request_id=new_id("req_"),
            model=self._model,
            body=body | {"stream": stream} | fields,
            stream=stream,
            kind="eval",
            run_id=self.run_id,
        )
        dispatched = await self._dispatcher.dispatch(request, backend=self._backend)
        try:
            data = b"".join([chunk async for chunk in dispatched.chunks()])
        finally:
            await dispatched.aclose()
        assert dispatched.attempt is not None  # noqa: S101  # the body was read to its end
        whole = {} if stream else msgspec.json.decode(data)
        text = "" if stream else str(whole["choices"][0]["message"].get("content") or "")
        return Answer(body=whole, text=text, row=dispatched.attempt)


async def probe(dispatcher: Dispatcher, backend: str, model: str) -> list[Finding]:
    """Everything that was found out about a backend.

    Args:
        dispatcher: Started.
        backend: Its name in the configuration.
        model: The model's name, as applications know it.

    Raises:
        UpstreamError: The backend does not answer at all.
        DiskError: A row could not be written.
    """
    asker = Asker(dispatcher, backend, model)
    await asker.ask()
    return [await _try(asker, name, required, test) for name, required, test in PROBES]


async def _try(asker: Asker, name: str, required: bool, test: "Probe") -> Finding:
    try:
        missing = await test(asker)
    except (UpstreamRejectedError, UnsupportedError) as error:
        return Finding(name=name, outcome="refused", required=required, detail=error.message)
    except UpstreamError as error:
        return Finding(name=name, outcome="failed", required=required, detail=error.message)
    outcome: Literal["ignored", "honoured"] = "ignored" if missing else "honoured"
    return Finding(name=name, outcome=outcome, required=required, detail=missing)


async def _text(asker: Asker) -> str:
    return "" if (await asker.ask()).text.strip() else "the answer is empty"


async def _stream(asker: Asker) -> str:
    row = (await asker.ask(stream=True)).row
    return "" if row.output_chars and row.finish_reason else "no text, or no finish reason"


async def _usage(asker: Asker) -> str:
    row = (await asker.ask()).row
    return "" if row.usage_source == "provider_final" else "no token counts"


async def _stream_usage(asker: Asker) -> str:
    row = (await asker.ask(stream=True)).row
    return "" if row.usage_source == "provider_final" else "no token counts at the end of a stream"


async def _max_tokens(asker: Asker) -> str:
    row = (await asker.ask(max_tokens=1)).row
    count = (row.out_visible or 0) + (row.out_reasoning or 0)
    if count > 1:
        return f"{count} tokens where 1 was allowed"
    return "" if row.finish_reason == "length" else f"finish_reason is {row.finish_reason!r}"


async def _seed(asker: Asker) -> str:
    hashes = {(await asker.ask(temperature=1, seed=7)).row.output_hash for _ in range(2)}
    if hashes == {""}:
        return "the answer is empty"
    return "" if len(hashes) == 1 else "the same seed gave two answers"


async def _stop(asker: Asker) -> str:
    words = (await asker.ask()).text.split()
    if len(words) < 2:
        return "the answer is too short to tell"
    text = (await asker.ask(stop=[words[1]])).text
    return f"the answer holds the stop sequence {words[1]!r}" if words[1] in text else ""


async def _logprobs(asker: Asker) -> str:
    body = (await asker.ask(logprobs=True, top_logprobs=2)).body
    given = body["choices"][0].get("logprobs") or {}
    return "" if given.get("content") else "no log-probabilities"


async def _unknown_field(asker: Asker) -> str:
    await asker.ask(fungible_probe=True)
    return ""


async def _nonsense(asker: Asker) -> str:
    try:
        await asker.ask(temperature=-5)
    except UpstreamRejectedError:
        return ""
    return "a temperature of -5 was accepted"


Probe = Callable[[Asker], Awaitable[str]]
PROBES: tuple[tuple[str, bool, Probe], ...] = (
    ("whole answer", True, _text),
    ("streamed answer", True, _stream),
    ("token counts", False, _usage),
    ("token counts in streams", False, _stream_usage),
    ("max_tokens", False, _max_tokens),
    ("seed", False, _seed),
    ("stop", False, _stop),
    ("logprobs", False, _logprobs),
    ("unknown fields tolerated", False, _unknown_field),
    ("bad values refused", False, _nonsense),
)
