"""`--month` and `--known-at` as moments."""

import re
import time
from datetime import date

from fungible.errors import InputError
from fungible.ledger.prices import FOREVER
from fungible.ledger.rates import day_ns
from fungible.ledger.sheets import moment_ns

_MONTH = re.compile(r"(\d{4})-(\d{2})")


def month_span(text: str) -> tuple[int, int]:
    """A month as `[since, until)` in ns, everything for an empty text.

    Raises:
        InputError: It is no month.
    """
    if not text:
        return 0, FOREVER
    found = _MONTH.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= 12 or int(found[1]) < 1970:
        raise InputError(f"--month {text!r} is not a month", hint="for example 2026-10")
    year, number = int(found[1]), int(found[2])
    after = date(year + number // 12, number % 12 + 1, 1)
    return day_ns(date(year, number, 1)), day_ns(after)


def moment_of(text: str) -> int:
    """`--known-at` in ns; now where it is empty.

    Raises:
        InputError: It is no ISO date or time.
    """
    if not text:
        return time.time_ns()
    try:
        return moment_ns(text)
    except ValueError as error:
        raise InputError(
            f"--known-at {text!r} is not an ISO date or time", hint="for example 2026-11-03T12:00"
        ) from error
