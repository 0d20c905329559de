"""Single values of foreign records: text, counts, amounts and times, each checked."""

import math
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from fungible.errors import InputError

MOST_TOKENS = 10**12
_LONGEST = 1000
# A number names its unit by its size: from 2000 to 2100 the ranges of the units are disjoint.
_EARLIEST_S, _LATEST_S = 946_684_800, 4_102_444_800
_UNITS = ((1, 1_000_000_000), (1_000, 1_000_000), (1_000_000, 1_000), (1_000_000_000, 1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_COST = Decimal(10) ** 15


def text(value: object) -> str:
    """A name or id; empty when it is none. Whole numbers become digits."""
    if isinstance(value, str):
        return value[:_LONGEST].encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:_LONGEST]
    return ""


def first_text(*values: object) -> str:
    """The first that says something."""
    return next((said for value in values if (said := text(value))), "")


def mapping(value: object) -> dict[str, object]:
    """An object; empty when it is something else."""
    return value if isinstance(value, dict) else {}


def labels(value: object) -> dict[str, str]:
    """The entries of an object that are plain values, as text."""
    return {text(key): said for key, one in mapping(value).items() if (said := text(one))}


def count(value: object, name: str) -> int | None:
    """A number of tokens; `None` when it is not stated.

    Raises:
        InputError: It is negative, absurd, or no whole number.
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} is {_shown(value)}, not a whole number")
    if not 0 <= value <= MOST_TOKENS:
        raise InputError(f"{name} is {_shown(value)}; it must be in [0, {MOST_TOKENS}]")
    return value


def amount(value: object, name: str) -> Decimal | None:
    """An amount of money, to 18 decimal places; `None` when it is not stated.

    Raises:
        InputError: It is no finite number, or absurd.
    """
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        number = Decimal(str(value)) if isinstance(value, int | float | str) else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or abs(number) > _MOST_COST:
        raise InputError(f"{name} is {_shown(value)}, not an amount")
    return number.quantize(Decimal(10) ** -18)


def moment(value: object, name: str) -> int:
    """A time as ns since the epoch; 0 when it is not stated.

    ISO 8601 text, in UTC where it names no zone; or a number of seconds, milliseconds,
    microseconds or nanoseconds, whichever lies between 2000 and 2100.

    Raises:
        InputError: It is neither, or outside of these years.
    """
    if value is None or value == "":
        return 0
    if isinstance(value, str):
        return _iso(value, name) if not _is_number(value) else _scaled(Decimal(value), name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {_shown(value)}, not a time")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} is {value}, not a time")
    return _scaled(Decimal(str(value)), name)


def ordered(started: int, ended: int) -> None:
    """Raise `InputError` when a call ended before it began."""
    if started and ended and ended < started:
        raise InputError(f"it ended {(started - ended) / 1e9:.3f} s before it began")


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isascii() and value.replace(".", "", 1).isdecimal()


def _iso(value: str, name: str) -> int:
    try:
        at = datetime.fromisoformat(value.strip()[:64])
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name} is {_shown(value)}, not a time") from error
    since = at - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if not _EARLIEST_S <= seconds < _LATEST_S:
        raise InputError(f"{name} is {_shown(value)}, not between the years 2000 and 2100")
    return seconds * 1_000_000_000 + since.microseconds * 1_000


def _scaled(value: Decimal, name: str) -> int:
    for per_second, ns in _UNITS:
        if _EARLIEST_S * per_second <= value < _LATEST_S * per_second:
            return int((value * ns).to_integral_value())
    raise InputError(f"{name} is {_shown(value)}, not between the years 2000 and 2100")


def _shown(value: object) -> str:
    said = str(value) if not isinstance(value, dict | list) else type(value).__name__
    return said if len(said) <= 40 else f"{said[:40]}…"
