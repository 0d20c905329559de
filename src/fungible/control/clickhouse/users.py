"""Who asks: the owner with control's own token, and readers from the configuration."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from fungible.config import ReaderSettings
from fungible.control.clickhouse.failures import ClickHouseError

OWNER = "fungible"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user who is known. Readers have limits, the owner has none."""

    name: str
    reader: ReaderSettings | None = None


class Users:
    """Everybody who may ask.

    Args:
        token: Password of the owner.
        readers: By name; see `[control.clickhouse.reader.NAME]`.
    """

    def __init__(self, token: str, readers: Mapping[str, ReaderSettings]) -> None:
        self._hashes = {name: reader.hash for name, reader in readers.items()}
        self._hashes[OWNER] = _digest(token)
        self._readers = dict(readers)

    def authenticate(self, headers: Mapping[str, str], fields: Mapping[str, str]) -> User:
        """The user of a request: from its `X-ClickHouse-…` headers, Basic, or its query string.

        Raises:
            ClickHouseError: 194 without a password, 516 for a wrong one or an unknown name.
        """
        name, password = _given(headers, fields)
        if not password:
            raise ClickHouseError(
                194,
                "this needs a user and a password: `fungible` with the text of"
                " run/control.token in the home, or a reader of the configuration",
            )
        # An unknown name costs as much time as a known one.
        known = hmac.compare_digest(self._hashes.get(name, ""), _digest(password))
        if not known:
            raise ClickHouseError(
                516, f"{name[:64]}: Authentication failed: wrong password, or no such user"
            )
        return User(name=name, reader=self._readers.get(name) if name != OWNER else None)


def _given(headers: Mapping[str, str], fields: Mapping[str, str]) -> tuple[str, str]:
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", OWNER), headers.get("x-clickhouse-key", "")
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ClickHouseError(516, "the Authorization header is not Basic") from error
        return name, password
    return fields.get("user", OWNER), fields.get("password", "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
