"""The records behind `[limits]`, `[limit.NAME]` and `[key.NAME.limits]`."""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from fungible.errors import ConfigError

# Nine digits after the point is what budgets count in; nine before it keeps every sum in
# 64 bits.
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_BUDGETS = ("budget_per_day", "budget_per_month", "budget_total")
_MOST_PER_MINUTE = 100_000_000
_STORES = ("memory://", "sqlite:///", "postgresql://", "redis://", "rediss://")
_SELECTORS = ("key", "owner", "customer")


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be used. 0 and an empty amount are no limit.

    Attributes:
        budget_per_day: Amount per UTC day in the price sheet's currency, as text: `"5.00"`.
        budget_per_month: The same per UTC calendar month.
        budget_total: The same for ever.
        on_store_failure: Whether requests pass while the store of limits cannot be reached.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    budget_per_day: str = ""
    budget_per_month: str = ""
    budget_total: str = ""
    on_store_failure: Literal["open", "closed"] = "closed"


class SharedLimitSettings(LimitSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit for one key, owner or customer, or with `*` for each of them separately."""

    key: str = ""
    owner: str = ""
    customer: str = ""


class LimitsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where limits are counted, and how a request is estimated before it is sent.

    Attributes:
        store: `memory://`, `sqlite:///path`, `postgresql://…` or `redis://…`; empty is a
            SQLite file under the home directory.
        store_timeout_s: Seconds until the store counts as failed.
        bytes_per_token: UTF-8 bytes of a request's text that count as one prompt token.
        assumed_output_tokens: Tokens of an answer whose request names no maximum.
        estimates: Per backend, an amount per million tokens for what has no token price.
    """

    store: str = ""
    store_timeout_s: float = 1.0
    bytes_per_token: int = 3
    assumed_output_tokens: int = 4096
    estimates: dict[str, str] = {}


def check_limits(
    where: str,
    settings: LimitsSettings,
    shared: Mapping[str, SharedLimitSettings],
    of_keys: Mapping[str, LimitSettings],
) -> None:
    """Raise `ConfigError` for a limit that cannot work; names `where` and the field."""
    if settings.store and not settings.store.startswith(_STORES):
        raise ConfigError(
            f"{where}: limits.store must start with one of {', '.join(_STORES)}",
            hint="leave it out to count in a SQLite file under the home directory",
        )
    for name in ("store_timeout_s", "bytes_per_token", "assumed_output_tokens"):
        if getattr(settings, name) <= 0:
            raise ConfigError(f"{where}: limits.{name} must be above 0")
    for name, amount in settings.estimates.items():
        _check_amount(f"{where}: limits.estimates.{name}", amount)
    for name, limit in of_keys.items():
        _check_limit(f"{where}: key.{name}.limits", limit)
    for name, limit in shared.items():
        at = f"{where}: limit.{name}"
        _check_limit(at, limit)
        if sum(bool(getattr(limit, selector)) for selector in _SELECTORS) != 1:
            raise ConfigError(
                f"{at} must name exactly one of {', '.join(_SELECTORS)}",
                hint='for example customer = "acme", or customer = "*" for each customer',
            )


def _check_limit(at: str, limit: LimitSettings) -> None:
    for name in ("requests_per_minute", "tokens_per_minute"):
        if not 0 <= getattr(limit, name) <= _MOST_PER_MINUTE:
            raise ConfigError(f"{at}.{name} must be from 0 (none) to {_MOST_PER_MINUTE}")
    for name in _BUDGETS:
        if amount := getattr(limit, name):
            _check_amount(f"{at}.{name}", amount)


def _check_amount(at: str, text: str) -> None:
    if not _AMOUNT.fullmatch(text):
        raise ConfigError(
            f'{at} is {text!r}, not a plain decimal in quotes such as "12.50"',
            hint="no sign, at most 9 digits before and 9 after the point",
        )
