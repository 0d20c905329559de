"""What an upstream's HTTP status means for us: one place, so that adapters agree."""

import msgspec

from fungible.errors import (
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
)

_SHOWN = 300


def error_for_status(backend: str, status: int, body: bytes) -> UpstreamError:
    """The error of a non-2xx answer; carries the upstream's own words, shortened."""
    said = f"{backend} answered {status}: {_message(body)}"
    if status in (429, 503):
        return UpstreamBusyError(said)
    if status >= 500:
        return UpstreamConnectError(said)
    if status == 408:
        return UpstreamTimeoutError(said)
    if status in (401, 403):  # our key, not the client's: its SDK must not blame its own
        return UpstreamError(said, hint=f"check backend.{backend}.api_key_env")
    return UpstreamRejectedError(said, status=status)


def _message(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
    return str(text)[:_SHOWN]
