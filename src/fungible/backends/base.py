"""The one seam between Fungible and anything that serves a model.

Who opens and closes: the process that dispatches builds each backend once, calls `start`
before the first request and `close` after the last. `send` may run concurrently without
bound; limits are the dispatcher's business. A `Reply` must be closed by whoever got it,
also when it was not read to the end: closing cancels the upstream call.
"""

from collections.abc import AsyncIterator, Callable
from typing import Protocol, runtime_checkable

import msgspec

from fungible.config import BackendSettings
from fungible.contract.inference import Endpoint, InferenceRequest


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend honours. New facts go here, never into name checks elsewhere.

    Attributes:
        endpoints: What it speaks itself; others are bridged where a bridge exists.
        ignored_fields: Top-level request fields that it would accept and not act on.
    """

    endpoints: frozenset[Endpoint] = frozenset({"chat/completions"})
    ignored_fields: frozenset[str] = frozenset()

    streaming: bool = True
    seed: bool = True
    stop: bool = True
    logprobs: bool = True
    usage_in_stream: bool = True


class Reply(Protocol):
    """An answer whose head has arrived with a 2xx status.

    `chunks` yields the body: for a stream, one or more whole server-sent events at a time, as
    the upstream wrote them, in the format of the endpoint that was asked; otherwise the whole
    body once. It raises `StreamBrokenError`, `UpstreamTimeoutError` or `UpstreamConnectError`
    where it can tell that the connection failed. Whether a stream that ended was complete is
    for the reader to say, who knows the format's last event.
    """

    status: int
    content_type: str

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, once."""
        ...

    async def close(self) -> None:
        """Free the connection, cancelling the upstream call if it is still running."""
        ...


@runtime_checkable
class PushedReply(Reply, Protocol):
    """A reply whose stream can also be pushed, which costs less for each token.

    `push` may take over from `chunks` at any time, also after some were read.
    """

    async def push(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with whole events as they arrive; returns where `chunks` would end.

        Whoever cancels it must `close` the reply, and may get events until then.

        Raises:
            UpstreamError: As `chunks`; and whatever `take` raised, which ends it.
        """
        ...

    async def finish(self) -> None:
        """`close`, after the stream's last event: what follows that need not be waited for."""
        ...

    def pause(self) -> None:
        """Take no more from the upstream for now."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class Backend(Protocol):
    """A place that can serve a model.

    Implementations take `(name, settings)`; they do no I/O before `start`.
    """

    name: str
    settings: BackendSettings
    capabilities: Capabilities

    async def start(self) -> None:
        """Open connection pools."""
        ...

    async def send(self, request: InferenceRequest) -> Reply:
        """Send one attempt and wait for the head of the answer.

        Raises:
            UpstreamError: One of its subclasses; `transient` says whether to try elsewhere.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the upstream answers at all, within a second."""
        ...

    async def close(self) -> None:
        """Close connection pools."""
        ...
