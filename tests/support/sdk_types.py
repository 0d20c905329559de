"""Judges requests and answers by the types of the vendors' own SDKs."""

from typing import Any

from pydantic import TypeAdapter, ValidationError


def check_shape(kind: Any, value: object, *, known: bool = True) -> None:
    """Raise `AssertionError` unless `value` is a `kind`.

    Args:
        kind: A typed dictionary or a model of an SDK.
        value: Decoded JSON.
        known: Also refuse top-level fields that the type does not name.
    """
    try:
        adapter = TypeAdapter(kind)  # must outlive the iterators that it makes
        _exhaust(adapter.validate_python(value))
    except ValidationError as error:
        raise AssertionError(f"not a {kind}: {error}") from error
    if known and isinstance(value, dict):
        unknown = set(value) - set(_fields(kind))
        assert not unknown, f"{kind} has no {sorted(unknown)}"


def _exhaust(value: object) -> None:
    """Iterables are validated while they are read."""
    if isinstance(value, dict):
        for item in value.values():
            _exhaust(item)
    elif not isinstance(value, str | bytes | int | float | None) and hasattr(value, "__iter__"):
        for item in value:
            _exhaust(item)


def _fields(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in (*getattr(kind, "__orig_bases__", ()), kind):
        found |= getattr(one, "__annotations__", {})
    for one in getattr(kind, "__mro__", ()):
        found |= getattr(one, "__annotations__", {})
    return found
