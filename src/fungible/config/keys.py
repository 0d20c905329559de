"""The records behind `[key.NAME]`."""

from datetime import UTC, datetime

import msgspec

from fungible.config.limits import LimitSettings
from fungible.errors import ConfigError


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key, by its SHA-256 only.

    Attributes:
        models: Models it may ask for; empty means all.
        expires: ISO date or time; without a zone it is UTC. A date ends when it begins.
        limits: What this key may use; `None` is anything.
    """

    hash: str
    owner: str = ""
    customer: str = ""
    feature: str = ""
    models: list[str] = []
    expires: str = ""
    limits: LimitSettings | None = None


def expiry_of(where: str, key: KeySettings) -> datetime | None:
    """The first moment at which a key no longer counts; `None` is never.

    Raises:
        ConfigError: `expires` is not an ISO date or time; names `where`.
    """
    if not key.expires:
        return None
    try:
        moment = datetime.fromisoformat(key.expires)
    except ValueError as error:
        raise ConfigError(
            f"{where}.expires: {key.expires!r} is not an ISO date or time",
            hint="such as 2027-01-31 or 2027-01-31T18:00:00+01:00; without a zone it is UTC",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
