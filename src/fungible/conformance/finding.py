"""What asking a backend has shown."""

from typing import Literal

import msgspec

Outcome = Literal["honoured", "degraded", "ignored", "refused", "failed", "untested"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried.

    Attributes:
        outcome: `honoured`; `degraded`, done in part; `ignored`, accepted without doing it;
            `refused` with a clear error; `failed`; or `untested`, for the reason in `detail`.
        required: Whether an application cannot do without it.
    """

    name: str
    outcome: Outcome
    required: bool = False
    detail: str = ""


class Told(msgspec.Struct, frozen=True):
    """What one question found; the suite adds its name."""

    outcome: Outcome
    detail: str = ""


HONOURED = Told("honoured")


def ignored(detail: str) -> Told:
    """Accepted, and nothing came of it."""
    return Told("ignored", detail)


def degraded(detail: str) -> Told:
    """Done in part."""
    return Told("degraded", detail)


def untested(why: str) -> Told:
    """It cannot be told here."""
    return Told("untested", why)


def unless(fault: str) -> Told:
    """Honoured, unless something is said against it."""
    return ignored(fault) if fault else HONOURED
