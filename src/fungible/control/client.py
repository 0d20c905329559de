"""Talks to the control process that runs in a home; blocking."""

import http.client
from typing import Any, TypeVar

import msgspec

from fungible.config import Config
from fungible.errors import (
    AuthError,
    FungibleError,
    InputError,
    RefusedError,
    UnavailableError,
    UnknownModelError,
)
from fungible.ledger.access import ControlAddress, exchange

TIMEOUT_S = 30.0
T = TypeVar("T")
_ERRORS: dict[str, type[FungibleError]] = {
    kind.code: kind for kind in (InputError, RefusedError, UnknownModelError, AuthError)
}


class ControlClient:
    """The control API of a running `fungible up`.

    Args:
        config: Its home says where control listens (`run/control.json`, `run/control.token`).

    Raises:
        UnavailableError: No control runs there.
    """

    def __init__(self, config: Config) -> None:
        run = config.home_path() / "run"
        try:
            data = (run / "control.json").read_bytes()
            self.url = msgspec.json.decode(data, type=ControlAddress).url
            self._token = (run / "control.token").read_text(encoding="ascii").strip()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(
                f"no control process runs in {config.home_path()}",
                hint="start it with `fungible up`, or pass --home or --config",
            ) from error

    def get(self, path: str, kind: type[T]) -> T:
        """`GET path`, decoded; errors are raised as control's own."""
        return self._ask("GET", path, b"", kind)

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """`POST path` with `body` as JSON, decoded; errors are raised as control's own."""
        return self._ask("POST", path, msgspec.json.encode(body), kind)

    def _ask(self, method: str, path: str, body: bytes, kind: type[T]) -> T:
        try:
            status, data = exchange(self.url, method, path, body, self._token, timeout_s=TIMEOUT_S)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"control at {self.url} does not answer: {error}",
                hint="start it with `fungible up`",
            ) from error
        if status >= 400:
            raise _error_of(self.url, status, data)
        return msgspec.json.decode(data, type=kind)


class _Said(msgspec.Struct):
    message: str
    code: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Said


def _error_of(url: str, status: int, data: bytes) -> FungibleError:
    """The error that control raised, with its hint apart again."""
    try:
        said = msgspec.json.decode(data, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        text: Any = data[:200].decode(errors="replace")
        return UnavailableError(f"control at {url} answered {status}: {text}")
    message, _, hint = said.message.partition(" hint: ")
    return _ERRORS.get(said.code, UnavailableError)(message, hint=hint)
