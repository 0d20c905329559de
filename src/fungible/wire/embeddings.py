"""`/v1/embeddings`: vectors for texts, as numbers or base64 (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.contract.inference import usage_from_openai
from fungible.errors import StreamBrokenError
from fungible.wire.observer import Observer, Reader, Seen, no_answer


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None


_read = Reader(_Answer)


class EmbeddingObserver(Observer):
    """Counts the tokens of an embedding request. Vectors are not text: nothing is hashed."""

    def event(self, frame: bytes) -> Seen:
        """No backend streams vectors.

        Raises:
            StreamBrokenError: Always.
        """
        raise StreamBrokenError(f"the backend sent an event of {len(frame)} bytes for vectors")

    def whole(self, body: bytes) -> None:
        """Read the list of vectors; its usage has no output tokens.

        Raises:
            UpstreamConnectError: The body is not a list of embeddings.
        """
        answer = _read.whole(body)
        if answer.error is not None or not answer.data:
            raise no_answer(answer.error)
        self.begun = True
        self.finish_reason = "stop"
        if isinstance(answer.usage, dict):
            self.usage = usage_from_openai({"completion_tokens": 0} | answer.usage)
