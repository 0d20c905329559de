"""What a translation leaves out, by name; and the checks that name a malformed field."""

from collections.abc import Collection, Mapping
from typing import Any

from fungible.errors import RequestError


class Dropping:
    """Collects the names of fields that the other format cannot say."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """One more; a name is kept once."""
        self._names[name] = None

    def all_but(self, fields: Mapping[str, Any], known: Collection[str], prefix: str = "") -> None:
        """Every field that is set and not among `known`."""
        for name, value in fields.items():
            if name not in known and value not in (None, [], {}):
                self.add(prefix + name)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were met."""
        return tuple(self._names)


def as_object(value: object, where: str) -> dict[str, Any]:
    """`value`, if it is a JSON object; else `RequestError` names it."""
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be an object", param=where)
    return value


def as_text(value: object, where: str) -> str:
    """`value`, if it is a text; else `RequestError` names it."""
    if not isinstance(value, str):
        raise RequestError(f"{where} must be a text", param=where)
    return value
