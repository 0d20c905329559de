"""A dispatcher with its rows in reach, and short ways to say a route and a request."""

import contextlib
from collections.abc import Callable
from typing import Any

from fungible.config import Config
from fungible.contract.events import AttemptEvent
from fungible.contract.inference import Attribution, InferenceRequest
from fungible.ledger.spool import SpoolWriter
from fungible.routing.answer import Dispatched
from fungible.routing.dispatch import Dispatcher
from fungible.routing.table import Route
from support.rows import rows


class Setup:
    """One dispatcher and its spool."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spool = SpoolWriter(config.spool_path(), "test")
        self.dispatcher = Dispatcher(config=config, spool=self.spool)

    def rows(self) -> list[AttemptEvent]:
        return rows(self.config.spool_path())

    async def settled(self) -> list[AttemptEvent]:
        """Rows after everything in the background has ended."""
        await self.dispatcher.close()
        return self.rows()

    async def ask(self, request: InferenceRequest, **how: Any) -> list[bytes]:
        return await read(await self.dispatcher.dispatch(request, **how))


async def read(answer: Dispatched) -> list[bytes]:
    return [chunk async for chunk in answer.chunks()]


Make = Callable[..., contextlib.AbstractAsyncContextManager[Setup]]


def route(*fallback: str, reference: str = "a", retries: int = 1, **fields: Any) -> Route:
    weights = fields.pop("weights", {reference: 1.0})
    return Route(
        model="m",
        reference=reference,
        weights=weights,
        fallback=list(fallback),
        retries=retries,
        **fields,
    )


def request(*, stream: bool = True, session: str = "", **fields: Any) -> InferenceRequest:
    known = InferenceRequest.__struct_fields__
    body = {"model": "m", "messages": [{"role": "user", "content": "hi there"}], "stream": stream}
    body |= {name: value for name, value in fields.items() if name not in known}
    return InferenceRequest(
        **{"request_id": "req_1", "model": "m", "body": body, "stream": stream}
        | {"attribution": Attribution(session=session)}
        | {name: value for name, value in fields.items() if name in known},
    )
