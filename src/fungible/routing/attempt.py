"""One upstream call from start to its row: sends, watches, and leaves an `AttemptEvent`."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from fungible.backends.base import Backend, Reply
from fungible.config import Config, binding_of
from fungible.contract.events import AttemptEvent, Status
from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import frame_data
from fungible.errors import FungibleError, StreamBrokenError, UpstreamTimeoutError
from fungible.routing.observe import Observation


class Attempt:
    """A call to one backend. `open` sends it; `frames` reads it; `event` describes it.

    Not for concurrent use. Whoever opened it must `close` it.
    """

    def __init__(
        self,
        *,
        config: Config,
        config_hash: str,
        backend: Backend,
        request: InferenceRequest,
        number: int,
        route_version: int,
    ) -> None:
        self.backend = backend
        self.request = request
        self.seen = Observation()
        self.status: Status = "error"
        self.content_type = "application/json"
        self.http_status = 0
        self.error_code = ""
        self.event: AttemptEvent | None = None
        self._id = new_id("att_")
        self._number = number
        self._config_hash = config_hash
        self._route_version = route_version
        self._started_ns = time.time_ns()
        self._deadline = asyncio.get_running_loop().time() + config.gateway.total_timeout_s
        self._first_token_s = config.gateway.first_token_timeout_s
        self._reply: Reply | None = None
        self._body: AsyncIterator[bytes] | None = None
        self._early: list[bytes] = []
        self._hide_usage = False
        self._slots: asyncio.Semaphore | None = None

    async def open(self, slots: asyncio.Semaphore) -> None:
        """Send, and read as far as the first token (the whole body if it is not streamed).

        Until this returns nothing was shown to the client, so another backend may be tried.

        Raises:
            UpstreamError: One of its subclasses.
        """
        try:
            async with asyncio.timeout(self._first_token_s):
                await slots.acquire()
                self._slots = slots
                self._started_ns = time.time_ns()
                self._reply = await self.backend.send(self._upstream_request())
                self.http_status = self._reply.status
                self.content_type = self._reply.content_type
                self._body = self._reply.chunks()
                await self._read_early(self._body)
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"{self.backend.name} gave no token within {self._first_token_s:g} s"
            ) from error

    def _upstream_request(self) -> InferenceRequest:
        """The request, asking for usage at the end of a stream when the client did not."""
        request = self.request
        if not request.stream or not self.backend.capabilities.usage_in_stream:
            return request
        options = dict(request.body.get("stream_options") or {})
        self._hide_usage = not options.get("include_usage")
        options["include_usage"] = True
        body = request.body | {"stream_options": options}
        return msgspec.structs.replace(request, body=body)

    async def _read_early(self, body: AsyncIterator[bytes]) -> None:
        if not self.request.stream:
            self._early = [chunk async for chunk in body]
            self.seen.whole(b"".join(self._early))
            return
        async for frame in body:
            if self._shown(frame):
                self._early.append(frame)
            if self.seen.first_token_ns is not None or self._is_done(frame):
                return

    async def frames(self) -> AsyncIterator[bytes]:
        """What the client gets, in order; `[DONE]` is left to the caller.

        Raises:
            StreamBrokenError: The upstream stopped before it was complete.
            UpstreamTimeoutError: It fell silent, or the whole took too long.
        """
        done = False
        for frame in self._early:
            if self._is_done(frame):
                done = True
            else:
                yield frame
        if not self.request.stream:
            return
        assert self._body is not None  # noqa: S101  # `open` came before
        while not done:
            frame = await self._next(self._body)
            if self._is_done(frame):
                return
            if self._shown(frame):
                yield frame

    async def _next(self, body: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(body)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{self.backend.name} took too long in all") from error
        except StopAsyncIteration as error:
            raise StreamBrokenError(f"{self.backend.name} ended without [DONE]") from error

    def _shown(self, frame: bytes) -> bool:
        data = frame_data(frame)
        if data is None or data == b"[DONE]":
            return True
        return not (self.seen.chunk(data) and self._hide_usage)

    @staticmethod
    def _is_done(frame: bytes) -> bool:
        return frame_data(frame) == b"[DONE]"

    def finish(self, status: Status, error: FungibleError | None = None) -> AttemptEvent:
        """The row. The first call decides; later ones return the same."""
        if self.event is None:
            self.status = status
            if error is not None:
                self.error_code = error.code
                self.http_status = self.http_status or error.status
            self.event = self._describe()
        return self.event

    def _describe(self) -> AttemptEvent:
        request, seen, settings = self.request, self.seen, self.backend.settings
        who, engine, usage = request.attribution, settings.engine, self.seen.usage
        return AttemptEvent(
            attempt_id=self._id,
            request_id=request.request_id,
            attempt_no=self._number,
            kind=request.kind,
            endpoint=request.endpoint,
            model=request.model,
            backend=self.backend.name,
            backend_kind=settings.kind,
            target=engine.target if engine else "",
            accelerator=settings.accelerator,
            region=settings.region,
            artifact=engine.artifact if engine else "",
            variant=engine.variant if engine else "",
            binding=binding_of(self.backend.name, settings),
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
            output_chars=seen.chars if seen.first_token_ns else None,
        )

    async def close(self) -> None:
        """Free the backend's slot and the connection; cancels the call if it still runs."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()
        reply, self._reply = self._reply, None
        if reply is not None:
            await reply.close()
