"""Answers an endpoint through the dispatcher: the data path of every request."""

from collections.abc import Sequence

import msgspec

from fungible.config import Config
from fungible.contract.inference import InferenceRequest
from fungible.contract.trace_context import span_of
from fungible.errors import ClientGoneError, FungibleError
from fungible.gateway.auth import attribute, check_model
from fungible.gateway.call import Call, HeaderList
from fungible.gateway.cost import CostTag
from fungible.gateway.grants import granted
from fungible.gateway.presence import Presence
from fungible.gateway.sink import Sink
from fungible.gateway.watch import RouteWatcher
from fungible.ledger.prices import PriceBook
from fungible.ledger.sheets import load_book
from fungible.limits.current import CurrentLimiter
from fungible.limits.limiter import Limiter
from fungible.routing.answer import Dispatched
from fungible.routing.dispatch import Dispatcher
from fungible.routing.table import Route
from fungible.wire.formats import WireFormat

_NO_CACHE = (b"cache-control", b"no-cache")
_DURABLE = (b"x-fungible-ledger", b"durable")
_LOST = (b"x-fungible-ledger", b"lost")
_PENDING = (b"x-fungible-ledger", b"pending")
# The client chose the names: a head must neither grow with them nor hold what none may.
_MOST_NAMES, _LONGEST_NAME = 32, 64


class Inference:
    """What it takes to answer, shared by all endpoints.

    Attributes:
        limits: Admit requests; whoever runs the gateway starts and closes them.
    """

    def __init__(self, config: Config, routes: RouteWatcher, dispatcher: Dispatcher) -> None:
        self._max_body = config.gateway.max_body_bytes
        book = load_book(config)
        self.limits = CurrentLimiter(config, book)
        self.reconfigure(config, book)
        self._drain_s = config.gateway.drain_timeout_s
        self._routes = routes
        self._dispatcher = dispatcher

    @property
    def limiter(self) -> Limiter:
        """The limiter in force."""
        return self.limits.now

    def reconfigure(self, config: Config, book: PriceBook) -> None:
        """Take over prices, and what routes say about clients that leave."""
        self._cost = CostTag(book)
        self._grace = {
            model: (route.on_client_gone or config.gateway.on_client_gone) == "drain"
            for model, route in config.route.items()
        }

    async def answer(self, call: Call, endpoint: WireFormat) -> None:
        """Read the request, send it to a backend, and send on what comes back."""
        asked = endpoint.read(await call.body(self._max_body))
        table = self._routes.table
        check_model(call.key, asked.model, table.routes)
        trace_id, span_id = span_of(call.header(b"traceparent"))
        request = InferenceRequest(
            request_id=call.request_id,
            model=asked.model,
            body=asked.body,
            endpoint=endpoint.endpoint,
            stream=asked.stream,
            attribution=attribute(call.key_name, call.key, asked.body, call.own_headers()),
            trace_id=trace_id,
            span_id=span_id,
        )
        route = table.routes[asked.model]
        grant = await granted(self.limits.now, request, route)
        if grant is None:
            await self._relay(call, request, route, table.version)
            return
        call.more_headers = grant.headers
        try:
            watched = msgspec.structs.replace(request, witness=grant)
            await self._relay(call, watched, route, table.version)
        finally:
            grant.finish()

    async def _relay(
        self, call: Call, request: InferenceRequest, route: Route, version: int
    ) -> None:
        grace_s = self._drain_s if self._grace.get(request.model) else 0.0
        with Presence(call, grace_s) as client:
            answer = await self._dispatcher.dispatch(request, route=route, route_version=version)
            try:
                await self._send(call, answer, version)
            finally:
                await answer.aclose()
        if client.gone and not call.started:
            raise ClientGoneError("the client left before its answer began")

    async def _send(self, call: Call, answer: Dispatched, version: int) -> None:
        headers: HeaderList = [
            (b"content-type", answer.content_type.encode("latin-1")),
            (b"x-fungible-backend", answer.backend.encode()),
            (b"x-fungible-route-version", b"%d" % version),
        ]
        if answer.dropped:
            headers.append((b"x-fungible-dropped", _listed(answer.dropped)))
        if not answer.streamed:
            answer.abandoned = call.gone
            body = await answer.pull()
            headers.append(_DURABLE if answer.recorded else _LOST)
            if answer.attempt is not None and (cost := self._cost.of(answer.attempt)):
                headers.append((b"x-fungible-cost", cost.encode()))
            call.respond(200, headers, body)
            return
        headers += (_NO_CACHE, _PENDING)
        answer.abandoned = call.gone
        call.start(200, headers, answer.take_early())
        await self._stream(call, answer)

    async def _stream(self, call: Call, answer: Dispatched) -> None:
        """Send events as they come; a broken stream ends in an error event."""
        sink = Sink(call, answer)
        try:
            last = await answer.push(sink.write)
        except FungibleError as error:
            call.fail(error, answer.number)
        else:
            call.end(last)
        finally:
            sink.close()


def _listed(names: Sequence[str]) -> bytes:
    """Names of fields as the value of a header; what is not ASCII or not printable escaped."""
    said = [name[:_LONGEST_NAME].encode("unicode_escape") for name in names[:_MOST_NAMES]]
    if more := len(names) - len(said):
        said.append(b"and %d more" % more)
    return b", ".join(said)
