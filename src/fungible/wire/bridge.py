"""Serves an endpoint from a backend that only speaks another one."""

from collections.abc import Callable, Collection
from typing import Any, Protocol

from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.errors import UnsupportedError
from fungible.wire.chat_on_messages.bridge import ChatOnMessages
from fungible.wire.count_on_tokenize import CountOnTokenize
from fungible.wire.messages_on_chat.bridge import MessagesOnChat
from fungible.wire.responses_on_chat.bridge import ResponsesOnChat
from fungible.wire.responses_on_messages import ResponsesOnMessages


class Bridge(Protocol):
    """Translates one attempt; it has state, so every attempt gets a new one.

    Attributes:
        endpoint: What is asked of the backend.
        dropped: Fields of the client's body that the other format cannot say.
    """

    endpoint: Endpoint
    dropped: tuple[str, ...]

    @property
    def number(self) -> int:
        """Of the next event for the client; 0 where its format numbers none."""
        ...

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The client's body in the backend's format.

        Raises:
            RequestError: A field is malformed; names it.
            UnsupportedError: The other format has no way to say something essential.
        """
        ...

    def whole(self, body: bytes) -> bytes:
        """A completed answer in the client's format."""
        ...

    def event(self, frame: bytes) -> bytes:
        """One event of the backend as none or more whole events for the client.

        The backend's last event gives the client's last events.
        """
        ...


# (what the client asked, what the backend speaks) -> how to get from one to the other.
BRIDGES: dict[tuple[Endpoint, Endpoint], Callable[[InferenceRequest], Bridge]] = {
    ("chat/completions", "messages"): ChatOnMessages,
    ("messages", "chat/completions"): MessagesOnChat,
    ("responses", "chat/completions"): ResponsesOnChat,
    ("responses", "messages"): ResponsesOnMessages,
    ("messages/count_tokens", "tokenize"): CountOnTokenize,
}


def bridge_for(request: InferenceRequest, spoken: Collection[Endpoint]) -> Bridge | None:
    """The bridge that an attempt needs; `None` if the backend speaks the endpoint itself.

    Raises:
        UnsupportedError: The backend cannot serve this endpoint at all.
    """
    asked = request.endpoint
    if asked in spoken:
        return None
    for (client, backend), make in BRIDGES.items():
        if client == asked and backend in spoken:
            return make(request)
    raise UnsupportedError(
        f"no backend in service speaks /v1/{asked}",
        hint=f"it speaks: {', '.join(f'/v1/{name}' for name in sorted(spoken))}",
    )
