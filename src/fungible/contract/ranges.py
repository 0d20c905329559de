"""Ranges of numbers in requests: said once, where a field is declared."""

import functools
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from fungible.errors import RequestError

MOST_TOKENS = 1 << 20


def within(low: float, high: float) -> msgspec.Meta:
    """A field's range, both ends included: what `check_ranges` holds it to and OpenAPI shows."""
    # As an extra, so that the check's own words reach the client and not the decoder's.
    return msgspec.Meta(extra_json_schema={"minimum": low, "maximum": high})


def at_least(low: float) -> msgspec.Meta:
    """The same without an upper end, for OpenAPI alone: whoever declares it checks it."""
    return msgspec.Meta(extra_json_schema={"minimum": low})


def check_ranges(request: msgspec.Struct) -> None:
    """Raise `RequestError` for the first number that is out of its field's range; names it."""
    for name, low, high in _ranges_of(type(request)):
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name} is {value}; it must be in [{low}, {high}]", param=name)


@functools.cache
def _ranges_of(kind: type[msgspec.Struct]) -> tuple[tuple[str, float, float], ...]:
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        schema = _schema(hint)
        if "maximum" in schema:
            found.append((name, schema["minimum"], schema["maximum"]))
    return tuple(found)


def _schema(hint: Any) -> dict[str, Any]:  # noqa: ANN401  # any annotation
    if get_origin(hint) is not Annotated:
        return {}
    metas = [one for one in get_args(hint)[1:] if isinstance(one, msgspec.Meta)]
    return dict(metas[0].extra_json_schema or {}) if metas else {}
