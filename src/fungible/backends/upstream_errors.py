"""What an upstream's HTTP status means for us: one place, so that adapters agree."""

import msgspec

from fungible.errors import (
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamSetupError,
    UpstreamTimeoutError,
)

_SHOWN = 300
# Our key, account, address or name for the model: nothing that the client sent.
_SETUP = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405, 407})


def error_for_status(
    backend: str, status: int, body: bytes, retry_after: str = ""
) -> UpstreamError:
    """The error of a non-2xx answer; carries the upstream's own words, shortened.

    Args:
        backend: Its name in the configuration.
        status: What it answered.
        body: The start of what it said.
        retry_after: Its header of that name, in seconds (dates are not understood).
    """
    if status == 424:  # AWS hands on what the model's own container answered
        status, body = _original(body)
    error = _classify(backend, status, body)
    error.upstream_status = status
    if retry_after.isascii() and retry_after.isdigit():
        error.retry_after_s = float(retry_after)
        error.hint = f"retry after {retry_after} s"
    return error


def _classify(backend: str, status: int, body: bytes) -> UpstreamError:
    said = f"{backend} answered {status}: {_message(body)}"
    if status in (429, 503, 529):
        return UpstreamBusyError(said)
    if status >= 500:
        return UpstreamConnectError(said)
    if status == 408:
        return UpstreamTimeoutError(said)
    if status in _SETUP:
        hint = f"check url, model and api_key_env of backend.{backend}"
        return UpstreamSetupError(said, hint=hint)
    return UpstreamRejectedError(said, status=status)


def _original(body: bytes) -> tuple[int, bytes]:
    """Status and words in a `ModelError` of AWS; a failed model without them is a 500."""
    try:
        said = {key.lower(): value for key, value in msgspec.json.decode(body).items()}
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        return 500, body
    status, words = said.get("originalstatuscode"), said.get("originalmessage")
    known = status if isinstance(status, int) and 400 <= status < 600 and status != 424 else 500
    return known, str(words).encode() if words else body


def _message(body: bytes) -> str:
    """`{"error": {"message": …}}`, `{"error": …}` or `{"message": …}`; or all of it."""
    try:
        said = msgspec.json.decode(body)
        error = said.get("error", said)
        text = (
            error["message" if "message" in error else "Message"]
            if isinstance(error, dict)
            else error
        )
    except (msgspec.DecodeError, KeyError, AttributeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
    return str(text)[:_SHOWN]
