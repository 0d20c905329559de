"""The endpoints that are answered by backends, by path."""

from fungible.contract.inference import Endpoint
from fungible.wire.formats import FORMATS, WireFormat

_SERVED: tuple[Endpoint, ...] = (
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
)
ENDPOINTS: dict[str, WireFormat] = {f"/v1/{name}": FORMATS[name] for name in _SERVED}
