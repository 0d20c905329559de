"""One upstream call from start to its row: sends, watches, and leaves an `AttemptEvent`."""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import cast

import msgspec

from fungible.backends.base import PushedReply, Reply
from fungible.config import Config, RouteSettings
from fungible.contract.events import AttemptEvent, Role, Status
from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest, Usage, Witness
from fungible.contract.sse import split_frames
from fungible.errors import (
    FirstTokenTimeoutError,
    FungibleError,
    IdleTimeoutError,
    StreamBrokenError,
    TotalTimeoutError,
    UnsupportedError,
    UpstreamError,
    UpstreamTimeoutError,
)
from fungible.routing.deadline import Deadline
from fungible.routing.place import Place
from fungible.routing.slots import RANKS
from fungible.wire.bridge import Bridge, bridge_for
from fungible.wire.formats import FORMATS
from fungible.wire.observer import Seen

_NO_ROUTE = RouteSettings(reference="")


class Attempt:
    """A call to one backend. `open` sends it, `more` reads it, `finish` describes it.

    Not for concurrent use. Whoever opened it must `close` it.

    Attributes:
        early: What the client gets first: events up to the first token, or the whole body.
        done: Whether a stream has ended as it should.
        last: What ends it for the client; kept back until the row is on disk.
        dropped: Fields of the request that this backend was not sent.
        event: The row, once there is one.
    """

    def __init__(
        self,
        *,
        config: Config,
        config_hash: str,
        place: Place,
        request: InferenceRequest,
        number: int,
        route_version: int,
        role: Role = "first",
    ) -> None:
        self.place = place
        self.request = request
        self._bridge: Bridge | None = None
        self._format = FORMATS[request.endpoint]
        self.seen = self._format.observer()
        self.dropped: tuple[str, ...] = ()
        self._strict = config.gateway.fields == "strict"
        self.last = b""
        self._broken: UpstreamError | None = None
        self.status: Status = "error"
        self.content_type = "application/json"
        self.http_status = 0
        self.error_code = ""
        self.event: AttemptEvent | None = None
        self._id = new_id("att_")
        self._number = number
        self._role: Role = role
        self._config_hash = config_hash
        self._route_version = route_version
        self._started_ns = time.time_ns()
        began = asyncio.get_running_loop().time()
        limits, of_route = config.gateway, config.route.get(request.model) or _NO_ROUTE
        self._deadline = began + (of_route.total_timeout_s or limits.total_timeout_s)
        first_s = of_route.first_token_timeout_s or limits.first_token_timeout_s
        self._token_by = min(began + first_s, self._deadline)
        self._idle_s = of_route.idle_timeout_s or limits.idle_timeout_s
        self._reply: Reply | None = None
        self._body: AsyncIterator[bytes] | None = None
        self._timer: Deadline | None = None
        self.early: list[bytes] = []
        self.done = False
        self._hide_usage = False
        self._slot_of: str | None = None
        self._witness: Witness | None = None
        self._withheld_at: int | None = None

    async def open(self) -> None:
        """Send, and read as far as the first token (the whole body if it is not streamed).

        Until this returns nothing was shown to the client, so another backend may be tried.

        Raises:
            UpstreamError: One of its subclasses.
            UnsupportedError: The backend cannot say what was asked; nothing was sent.
        """
        self._bridge = bridge_for(self.request, self.place.backend.capabilities.endpoints)
        if self._bridge is not None:
            self._format = FORMATS[self._bridge.endpoint]
            self.seen = self._format.observer()
        await self._enter()
        self._started_ns = time.time_ns()
        if (witness := self.request.witness) is not None:
            self._witness = witness
            witness.began()
        streamed = self.request.stream
        self._timer = Deadline(self._token_by if streamed else self._deadline)
        try:
            with self._timer:
                self._reply = await self.place.backend.send(self._upstream_request())
                self.http_status = self._reply.status
                self.content_type = self._reply.content_type
                self._body = self._reply.chunks()
                await self._read_early(self._body)
        except TimeoutError as error:
            name = self.place.name
            if streamed and self._token_by < self._deadline:
                raise FirstTokenTimeoutError(f"{name} gave no token in time") from error
            raise TotalTimeoutError(f"{name} gave no answer in time") from error
        if streamed:
            self._timer.stop()
            self._timer = Deadline(self._deadline, self._idle_s)

    async def _enter(self) -> None:
        """Wait for one of the backend's slots."""
        place, who = self.place, self.request.attribution
        customer = who.customer or who.key
        if not place.slots.take(customer):
            left = self._token_by - asyncio.get_running_loop().time()
            patience = min(place.settings.queue_timeout_s, left)
            await place.slots.wait(customer, RANKS[self.request.kind], patience)
        self._slot_of = customer

    def _upstream_request(self) -> InferenceRequest:
        """The request as this backend gets it, asking for usage at the end of a stream."""
        request = msgspec.structs.replace(self.request, attempt_id=self._id)
        if self._bridge is not None:
            body = self._bridge.request(request.body)
            self.dropped = self._bridge.dropped
            endpoint = self._bridge.endpoint
            request = msgspec.structs.replace(request, body=body, endpoint=endpoint)
        request = self._without_ignored(request)
        capable = self._format.asks_usage and self.place.backend.capabilities.usage_in_stream
        if not request.stream or not capable:
            return request
        options = dict(request.body.get("stream_options") or {})
        if options.get("include_usage"):
            return request
        self._hide_usage = True
        body = request.body | {"stream_options": options | {"include_usage": True}}
        return msgspec.structs.replace(request, body=body)

    def _without_ignored(self, request: InferenceRequest) -> InferenceRequest:
        """The request without fields that the backend would accept and not act on.

        Raises:
            UnsupportedError: A field would have to be left out, and the policy is `strict`.
        """
        ignored = self.place.backend.capabilities.ignored_fields
        if ignored:
            names = [name for name in ignored.intersection(request.body) if _says(request, name)]
            if names:
                body = {name: item for name, item in request.body.items() if name not in names}
                request = msgspec.structs.replace(request, body=body)
                self.dropped += tuple(sorted(names))
        if self.dropped and self._strict:
            raise UnsupportedError(
                f"{self.dropped[0]}: {self.place.name} would not act on it",
                hint='leave it out, or set [gateway] fields = "lenient"',
                param=self.dropped[0],
            )
        return request

    async def _read_early(self, body: AsyncIterator[bytes]) -> None:
        if not self.request.stream:
            whole = b"".join([chunk async for chunk in body])
            self.seen.whole(whole)
            self.early = [self._bridge.whole(whole) if self._bridge else whole]
            return
        async for chunk in body:
            if shown := self._shown(chunk):
                self.early.append(shown)
            if self.seen.begun or self.done:
                return
        raise StreamBrokenError(f"{self.place.name} ended its stream before it began")

    @property
    def number(self) -> int:
        """Of the next event that the client would get; 0 where its format numbers none."""
        if self._withheld_at is not None:
            return self._withheld_at
        return self.seen.number if self._bridge is None else self._bridge.number

    async def more(self) -> bytes:
        """The next events of a stream that the client may see; sets `done` at its end.

        Raises:
            StreamBrokenError: The upstream stopped before it was complete.
            UpstreamTimeoutError: It fell silent, or the whole took too long.
        """
        assert self._body is not None  # noqa: S101  # `open` came before
        if self._broken is not None:
            raise self._broken
        return self._shown(await self._next(self._body))

    @property
    def pushed(self) -> PushedReply | None:
        """The reply, if the rest of a stream can be pushed."""
        reply = self._reply
        return cast("PushedReply", reply) if hasattr(reply, "push") else None

    async def push(self, reply: PushedReply, write: Callable[[bytes], None]) -> None:
        """Call `write` with what `more` would return until the stream is `done`.

        Raises:
            StreamBrokenError: The upstream stopped before it was complete.
            UpstreamTimeoutError: It fell silent, or the whole took too long.
        """
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pushing = asyncio.ensure_future(reply.push(self._taker(write, finished)))
        pushing.add_done_callback(functools.partial(_finish, finished))
        try:
            with self._in_time():
                await finished
        except TimeoutError as error:
            raise self._too_slow() from error
        finally:
            pushing.cancel()
        if not self.done:
            pushing.result()
            raise self._ended_early()

    def _taker(
        self, write: Callable[[bytes], None], finished: asyncio.Future[None]
    ) -> Callable[[bytes], None]:
        """What takes pushed events, until they are `finished`: every token of a stream."""
        timer, now, over = self._in_time(), asyncio.get_running_loop().time, finished.done
        again, plain = self.seen.again, self._bridge is None and self._broken is None

        def taken(events: bytes) -> None:
            if over():
                return
            timer.heard_at = now()
            if plain and again(events):  # nearly always
                write(events)
                return
            self._pass_on(events, write)
            if self.done:
                finished.set_result(None)

        return taken

    def _pass_on(self, events: bytes, write: Callable[[bytes], None]) -> None:
        """Write what the client may see of some events."""
        if self._broken is None and (shown := self._shown(events)):
            write(shown)
        if self._broken is not None:
            raise self._broken

    def _in_time(self) -> Deadline:
        assert self._timer is not None  # noqa: S101  # `open` came before
        return self._timer

    def _too_slow(self) -> UpstreamTimeoutError:
        if self._in_time().silent:
            return IdleTimeoutError(f"{self.place.name} fell silent for {self._idle_s:g} s")
        return TotalTimeoutError(f"{self.place.name} took too long in all")

    def hold(self, held: bool) -> None:
        """Take no more from the backend for now, where it pushes; or go on."""
        if (reply := self.pushed) is None:
            return
        if self._timer is not None:
            self._timer.hold(held)
        if held:
            reply.pause()
        else:
            reply.resume()

    def _ended_early(self) -> StreamBrokenError:
        return StreamBrokenError(f"{self.place.name} ended without {self._format.last}")

    async def _next(self, body: AsyncIterator[bytes]) -> bytes:
        try:
            with self._in_time():
                return await anext(body)
        except TimeoutError as error:
            raise self._too_slow() from error
        except StopAsyncIteration as error:
            raise self._ended_early() from error

    def _shown(self, chunk: bytes) -> bytes:
        """Look at whole events: those that the client may see now, in its own format."""
        if self._bridge is None and chunk.find(b"\n") == len(chunk) - 2:
            # Nearly always: one event, of one line.
            seen = self.seen.event(chunk)
            return chunk if seen is Seen.SHOW else self._kept_back(chunk, seen)
        shown: list[bytes] = []
        observe, again = self.seen.event, self.seen.again
        bridge, unchanged = self._bridge, True
        for frame in split_frames(chunk):
            if bridge is None and again(frame):
                shown.append(frame)
                continue
            try:
                seen = observe(frame)
            except UpstreamError as error:
                if not shown:
                    raise
                self._broken = error  # first what came before it
                unchanged = False
                break
            if bridge is None and seen is Seen.SHOW:
                shown.append(frame)
                continue
            unchanged = False
            if bridge is None and seen is Seen.HIDE and self._hide_usage:
                continue
            if seen is Seen.END:
                self._withheld_at = self.number
            out = frame if bridge is None else bridge.event(frame)
            if seen is Seen.END:
                self.done = True
                self.last = out
                break
            shown.append(out)
        return chunk if unchanged else b"".join(shown)

    def _kept_back(self, event: bytes, seen: Seen) -> bytes:
        """An event that the client may not see, or not yet; unless it asked for it."""
        if seen is Seen.END:
            self._withheld_at = self.number
            self.done = True
            self.last = event
            return b""
        return b"" if self._hide_usage else event

    def finish(self, status: Status, error: FungibleError | None = None) -> AttemptEvent:
        """The row. The first call decides; later ones return the same."""
        if self.event is None:
            self.status = status
            if error is not None:
                self.error_code = error.code
                said = error.upstream_status if isinstance(error, UpstreamError) else 0
                self.http_status = self.http_status or said or error.status
            self.event = self._describe()
            if self._witness is not None:
                self._witness.ended(self.event)
        return self.event

    def _describe(self) -> AttemptEvent:
        request, seen, settings = self.request, self.seen, self.place.settings
        who, engine, usage = request.attribution, settings.engine, self._usage()
        answered = seen.begun or self.status == "ok"
        return AttemptEvent(
            attempt_id=self._id,
            request_id=request.request_id,
            attempt_no=self._number,
            role=self._role,
            kind=request.kind,
            endpoint=request.endpoint,
            model=request.model,
            backend=self.place.name,
            backend_kind=settings.kind,
            target=engine.target if engine else "",
            accelerator=settings.accelerator,
            region=settings.region,
            artifact=engine.artifact if engine else "",
            variant=engine.variant if engine else "",
            binding=self.place.binding,
            config_hash=self._config_hash,
            route_version=self._route_version,
            owner=who.owner,
            key=who.key,
            customer=who.customer,
            feature=who.feature,
            session=who.session,
            tags=who.tags,
            run_id=request.run_id,
            item_id=request.item_id,
            streamed=request.stream,
            started_ns=self._started_ns,
            first_token_ns=seen.first_token_ns,
            ended_ns=max(time.time_ns(), self._started_ns),
            status=self.status,
            http_status=self.http_status,
            error_code=self.error_code,
            finish_reason=seen.finish_reason,
            in_uncached=usage.in_uncached,
            in_cache_read=usage.in_cache_read,
            in_cache_write=usage.in_cache_write,
            out_visible=usage.out_visible,
            out_reasoning=usage.out_reasoning,
            usage_source=usage.source,
            output_hash=seen.output_hash,
            output_chars=seen.chars if answered else None,
            response_id=seen.response_id,
            trace_id=request.trace_id,
            span_id=request.span_id,
        )

    def _usage(self) -> Usage:
        """As reported; for a stream cut before its report, what was seen of it.

        Servers send about one token an event. What the prompt took stays unknown.
        """
        seen = self.seen
        cut = self.status in ("cancelled", "interrupted")
        if seen.usage.source == "none" and cut and seen.pieces:
            return Usage(out_visible=seen.pieces, source="estimated")
        return seen.usage

    async def close(self) -> None:
        """Free the backend's slot and the connection; cancels the call if it still runs."""
        if self._timer is not None:
            self._timer.stop()
        holder, self._slot_of = self._slot_of, None
        if holder is not None:
            self.place.slots.leave(holder)
        body, self._body = self._body, None
        if isinstance(body, AsyncGenerator):
            await body.aclose()
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if self.done and hasattr(reply, "finish"):
            await reply.finish()
        else:
            await reply.close()


def _says(request: InferenceRequest, name: str) -> bool:
    """Whether a field asks for anything."""
    return request.body[name] not in (None, [], {})


def _finish(finished: asyncio.Future[None], pushing: asyncio.Future[None]) -> None:
    """What comes after the last event of a stream matters to nobody."""
    if not pushing.cancelled():
        pushing.exception()
    if not finished.done():
        finished.set_result(None)
