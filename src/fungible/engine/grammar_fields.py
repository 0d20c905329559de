"""The fields of a request that say what form its answers have, read into one grammar.

They mean the same in `/v1/chat/completions` and `/v1/completions`: OpenAI's `response_format`,
vLLM's `structured_outputs`, and the older `guided_*`.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from fungible.contract.openai import read_fields
from fungible.engine.grammar import (
    ANY_OBJECT,
    GrammarSource,
    choice_grammar,
    lark_grammar,
    regex_grammar,
    schema_grammar,
)
from fungible.errors import RequestError, UnsupportedError

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


class _Fields(msgspec.Struct, kw_only=True):
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None


def grammar_from(raw: Mapping[str, Any]) -> GrammarSource | None:
    """The grammar that a decoded body asks for; `None` where any text will do.

    Raises:
        RequestError: A field is malformed, or two of them contradict each other.
        UnsupportedError: A kind of format that this engine does not know.
    """
    fields = read_fields(raw, _Fields)
    asked = [_response_format(fields.response_format)]
    if fields.structured_outputs:
        asked.append(_structured(fields.structured_outputs, "structured_outputs."))
    asked += [
        _structured({kind: raw[name]}, "", name)
        for name, kind in _GUIDED.items()
        if raw.get(name) is not None
    ]
    found = [one for one in asked if one is not None]
    if len(found) > 1:
        raise RequestError(
            f"{found[0].param} and {found[1].param} exclude each other",
            hint="leave one of them out",
            param=found[1].param,
        )
    return found[0] if found else None


def _response_format(asked: Mapping[str, Any] | None) -> GrammarSource | None:
    kind = (asked or {}).get("type", "text") if asked is not None else "text"
    if asked is None or kind == "text":
        return None
    if kind == "json_object":
        return schema_grammar(ANY_OBJECT, "response_format")
    if kind != "json_schema":
        raise UnsupportedError(
            f"response_format.type is {kind!r}; this engine knows text, json_object, json_schema",
            param="response_format.type",
        )
    where = "response_format.json_schema.schema"
    named = asked.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return _json(schema, where)


def _structured(
    asked: Mapping[str, Any], prefix: str, name: str | None = None
) -> GrammarSource | None:
    given = {key: value for key, value in asked.items() if value is not None}
    if len(given) != 1:
        raise RequestError(
            "structured_outputs must have one of json, regex, choice, grammar, json_object",
            param="structured_outputs",
        )
    ((kind, value),) = given.items()
    where = name or prefix + kind
    if kind == "json":
        return _json(value, where)
    if kind == "json_object" and value is True:
        return schema_grammar(ANY_OBJECT, where)
    if kind == "regex" and isinstance(value, str):
        return regex_grammar(value, where)
    if kind == "grammar" and isinstance(value, str):
        return lark_grammar(value, where)
    texts = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    if kind == "choice" and texts:
        return choice_grammar(value, where)
    if kind in ("regex", "grammar", "choice", "json_object"):
        raise RequestError(f"{where} has the wrong type", param=where)
    raise UnsupportedError(f"{where} is not supported by this engine", param=where)


def _json(schema: object, where: str) -> GrammarSource:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise RequestError(f"{where} is not JSON: {error}", param=where) from error
    if not isinstance(schema, dict | bool):
        raise RequestError(f"{where} must be a JSON schema", param=where)
    return schema_grammar(schema, where)
