"""The bearer token that guards the control API."""

import hmac
import secrets
from pathlib import Path

from starlette.requests import Request

from fungible.control.files import write_atomic
from fungible.errors import AuthError


def make_token(path: Path) -> str:
    """A new token, readable by this user only; one for each start of control."""
    token = secrets.token_urlsafe(32)
    write_atomic(path, token.encode(), mode=0o600)
    return token


def require_token(request: Request, token: str) -> None:
    """Raise `AuthError` unless the request carries `Authorization: Bearer <token>`."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        raise AuthError(
            "this needs control's bearer token",
            hint="send `Authorization: Bearer` with the text of run/control.token in the home",
        )
