"""API keys: who is asking, and on whose account."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from fungible.config import Config, KeySettings, expiry_of
from fungible.contract.inference import Attribution
from fungible.errors import AuthError, UnknownModelError

_HINT = "send `Authorization: Bearer KEY` or `x-api-key: KEY`; `fungible key new` makes keys"
_ANONYMOUS = ("", KeySettings(hash="0" * 64))
# The OpenAI API's own limits of `metadata`: rows must not grow with what a client sends.
_TAG_LIMIT, _NAME_LIMIT, _TEXT_LIMIT = 16, 64, 512


class _Entry(msgspec.Struct, frozen=True):
    """One key as it is looked up; `expires` as configured, `ends_s` since the epoch."""

    name: str
    settings: KeySettings
    digest: bytes
    ends_s: float | None


class KeyRing:
    """The keys of the configuration. Without any, everybody is anonymous."""

    def __init__(self, config: Config) -> None:
        self._entries: dict[bytes, _Entry] = {}
        for name, key in config.key.items():
            digest = bytes.fromhex(key.hash)
            moment = expiry_of(f"key.{name}", key)
            ends_s = moment.timestamp() if moment else None
            self._entries[digest] = _Entry(name, key, digest, ends_s)

    def authenticate(
        self, authorization: str | None, api_key: str | None = None
    ) -> tuple[str, KeySettings]:
        """Name and settings of the key that a request carries.

        One look-up by the secret's SHA-256, whatever the number of keys. Its time can depend
        on digests only, and a digest says nothing about the secrets near it; the final
        comparison takes the same time wherever two digests differ.

        Args:
            authorization: The `Authorization` header (OpenAI's clients), or `None`.
            api_key: The `x-api-key` header (Anthropic's clients), or `None`.

        Raises:
            AuthError: No key, two different ones, an unknown one, or an expired one.
        """
        if not self._entries:
            return _ANONYMOUS
        secret = _secret(authorization, api_key)
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            raise AuthError("the API key is not known.", hint=_HINT)
        if entry.ends_s is not None and datetime.now(UTC).timestamp() >= entry.ends_s:
            raise AuthError(f"the API key expired on {entry.settings.expires}.", hint=_HINT)
        return entry.name, entry.settings


def _secret(authorization: str | None, api_key: str | None) -> str:
    scheme, _, given = (authorization or "").partition(" ")
    bearer = given.strip() if scheme.lower() == "bearer" else ""
    plain = (api_key or "").strip()
    if bearer and plain and bearer != plain:
        raise AuthError("two different API keys were sent.", hint=_HINT)
    if not (bearer or plain):
        raise AuthError("no API key was sent.", hint=_HINT)
    return bearer or plain


def check_model(key: KeySettings, model: str, known: Mapping[str, Any]) -> None:
    """Raise `UnknownModelError` unless this key may ask for this model."""
    if model in known and (not key.models or model in key.models):
        return
    allowed = [name for name in known if not key.models or name in key.models]
    raise UnknownModelError(
        f"model {model!r} is not served for this key.",
        hint=f"models: {', '.join(sorted(allowed)) or 'none'}",
        param="model",
    )


def attribute(
    name: str,
    key: KeySettings,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> Attribution:
    """Who a request is for: what the key says wins over what the request says.

    Where the key is silent, the headers `x-fungible-feature` and `x-fungible-customer` count,
    then `metadata.feature` and `metadata.customer` of the body. `x-fungible-session`,
    `metadata.session`, or else `user` (Anthropic: `metadata.user_id`) names the conversation.
    The rest of the metadata and the pairs of `x-fungible-tags` (`name=value, …`) are tags.

    Args:
        name: The key's name; empty for an anonymous request.
        key: Its settings.
        body: The decoded request.
        headers: The request's headers by lower-case name.
    """
    raw = body.get("metadata")
    given = headers or {}
    metadata = (
        {str(k)[:_NAME_LIMIT]: str(v)[:_TEXT_LIMIT] for k, v in raw.items()}
        if isinstance(raw, dict) and raw
        else {}
    )
    said = {
        part: given.get(f"x-fungible-{part}", "")[:_TEXT_LIMIT] or metadata.pop(part, "")
        for part in ("session", "feature", "customer")
    }
    for part in said:
        metadata.pop(part, None)
    if tags := given.get("x-fungible-tags"):
        metadata = _pairs(tags) | metadata
    user = body.get("user") or metadata.pop("user_id", "")
    return Attribution(
        key=name,
        owner=key.owner,
        customer=key.customer or said["customer"],
        feature=key.feature or said["feature"],
        session=said["session"] or str(user)[:_TEXT_LIMIT],
        tags=dict(list(metadata.items())[:_TAG_LIMIT]),
    )


def _pairs(text: str) -> dict[str, str]:
    """Tags of a header such as `team=search, test=on`; pieces without a name are left out."""
    found = {}
    for piece in text.split(",")[: 2 * _TAG_LIMIT]:
        name, _, value = piece.partition("=")
        if name.strip():
            found[name.strip()[:_NAME_LIMIT]] = value.strip()[:_TEXT_LIMIT]
    return found
