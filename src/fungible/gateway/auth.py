"""API keys: who is asking, and on whose account."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from fungible.config import Config, KeySettings
from fungible.contract.inference import Attribution
from fungible.errors import AuthError, ConfigError, UnknownModelError

_HINT = "send `Authorization: Bearer KEY`; `fungible key new` makes keys"
# The OpenAI API's own limits of `metadata`: rows must not grow with what a client sends.
_TAG_LIMIT, _NAME_LIMIT, _TEXT_LIMIT = 16, 64, 512


class KeyRing:
    """The keys of the configuration. Without any, everybody is anonymous."""

    def __init__(self, config: Config) -> None:
        self._keys = [
            (name, bytes.fromhex(key.hash), key, _expiry(name, key))
            for name, key in config.key.items()
        ]

    @property
    def anonymous(self) -> bool:
        """Whether requests need no key."""
        return not self._keys

    def authenticate(self, header: str | None) -> tuple[str, KeySettings]:
        """Name and settings of the key in an `Authorization` header.

        Every key is compared, each in constant time, so timing tells nothing about which
        one came close.

        Raises:
            AuthError: No key, an unknown one, or an expired one.
        """
        if self.anonymous:
            return "", KeySettings(hash="0" * 64)
        scheme, _, secret = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise AuthError("no API key was sent.", hint=_HINT)
        digest = hashlib.sha256(secret.strip().encode()).digest()
        found = None
        for name, known, key, expiry in self._keys:
            if hmac.compare_digest(known, digest):
                found = (name, key, expiry)
        if found is None:
            raise AuthError("the API key is not known.", hint=_HINT)
        name, key, expiry = found
        if expiry is not None and datetime.now(UTC).date() >= expiry:
            raise AuthError(f"the API key expired on {expiry}.", hint=_HINT)
        return name, key


def check_model(key: KeySettings, model: str, known: Mapping[str, Any]) -> None:
    """Raise `UnknownModelError` unless this key may ask for this model."""
    allowed = [name for name in known if not key.models or name in key.models]
    if model not in allowed:
        raise UnknownModelError(
            f"model {model!r} is not served for this key.",
            hint=f"models: {', '.join(sorted(allowed)) or 'none'}",
            param="model",
        )


def attribute(name: str, key: KeySettings, body: Mapping[str, Any]) -> Attribution:
    """Who a request is for: what the key says wins over what the request says.

    `metadata.feature` and `metadata.customer` count only where the key is silent;
    `metadata.session`, or else `user`, names the conversation; the rest are tags.
    """
    raw = body.get("metadata")
    metadata = (
        {str(k)[:_NAME_LIMIT]: str(v)[:_TEXT_LIMIT] for k, v in raw.items()}
        if isinstance(raw, dict)
        else {}
    )
    session = metadata.pop("session", "") or str(body.get("user") or "")[:_TEXT_LIMIT]
    feature = metadata.pop("feature", "")
    customer = metadata.pop("customer", "")
    return Attribution(
        key=name,
        owner=key.owner,
        customer=key.customer or customer,
        feature=key.feature or feature,
        session=session,
        tags=dict(list(metadata.items())[:_TAG_LIMIT]),
    )


def _expiry(name: str, key: KeySettings) -> date | None:
    if not key.expires:
        return None
    try:
        return date.fromisoformat(key.expires)
    except ValueError as error:
        raise ConfigError(f"key.{name}.expires: {key.expires!r} is not an ISO date") from error
