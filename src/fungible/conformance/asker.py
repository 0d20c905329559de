"""Sends questions to one backend as evaluation traffic: every question is an attempt with a row."""

from typing import Any

import msgspec

from fungible.contract.events import AttemptEvent
from fungible.contract.ids import new_id
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.contract.sse import frame_data, split_frames
from fungible.routing.dispatch import Dispatcher

PROMPT = "Count from one to ten in words."


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A body as JSON (empty for a stream), the events of a stream, its text and its row."""

    body: dict[str, Any]
    events: list[dict[str, Any]]
    text: str
    row: AttemptEvent


class Asker:
    """One run of questions to one backend.

    Attributes:
        reference: The backend that it is compared with; empty if there is none.
        run_id: What the rows of this run have in common.
    """

    def __init__(
        self, dispatcher: Dispatcher, backend: str, model: str, reference: str = ""
    ) -> None:
        self._dispatcher = dispatcher
        self.backend = backend
        self.model = model
        self.reference = "" if reference == backend else reference
        self.run_id = new_id("run_")

    async def ask(
        self, prompt: str = PROMPT, *, stream: bool = False, of: str = "", **fields: object
    ) -> Answer:
        """One chat answer, read to its end.

        Args:
            prompt: What the user says; `messages` in `fields` goes before it.
            stream: Whether it is streamed.
            of: Another backend than the one in question.
            fields: More of the body.

        Raises:
            UpstreamError: The backend failed, or refused the request.
        """
        turn = {"role": "user", "content": prompt}
        body = {"messages": [turn], "max_tokens": 24, "temperature": 0} | fields
        return await self.post("chat/completions", body, stream=stream, of=of)

    async def post(
        self, endpoint: Endpoint, body: dict[str, Any], *, stream: bool = False, of: str = ""
    ) -> Answer:
        """One answer of any endpoint; same errors as `ask`."""
        more = {"stream": True} if stream else {}
        request = InferenceRequest(
            request_id=new_id("req_"),
            model=self.model,
            body={"model": self.model} | body | more,
            endpoint=endpoint,
            stream=stream,
            kind="eval",
            run_id=self.run_id,
        )
        dispatched = await self._dispatcher.dispatch(request, backend=of or self.backend)
        try:
            data = b"".join([chunk async for chunk in dispatched.chunks()])
        finally:
            await dispatched.aclose()
        assert dispatched.attempt is not None  # noqa: S101  # the body was read to its end
        whole = {} if stream else msgspec.json.decode(data)
        return Answer(
            body=whole,
            events=_events(data) if stream else [],
            text=_text(whole),
            row=dispatched.attempt,
        )


def _events(data: bytes) -> list[dict[str, Any]]:
    said = [frame_data(frame) for frame in split_frames(data)]
    return [msgspec.json.decode(one) for one in said if one and one.strip() != b"[DONE]"]


def _text(whole: dict[str, Any]) -> str:
    choices = whole.get("choices") or [{}]
    return str((choices[0].get("message") or {}).get("content") or "")
