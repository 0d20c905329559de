import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from fungible.engine.constraint import Constraint
from fungible.engine.grammar import (
    ANY_OBJECT,
    GrammarSource,
    choice_grammar,
    lark_grammar,
    regex_grammar,
    schema_grammar,
)
from fungible.engine.tokenizer import ChatTokenizer
from fungible.engine.tool_calls import ToolFormat, parser_for
from fungible.engine.tool_grammar import call_grammar
from fungible.errors import EngineError, RequestError
from support.engine_setup import EOS
from support.tiny_model import TOKENS

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NESTED: dict[str, Any] = {
    "$defs": {"leaf": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[ab]{1,3}$"}]}},
    "type": "array",
    "items": {"$ref": "#/$defs/leaf"},
    "minItems": 1,
    "maxItems": 4,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "greet", "parameters": PERSON}},
    {"type": "function", "function": {"name": "now"}},
]


def sample(constraint: Constraint, seed: int, most: int = 300) -> tuple[list[int], bool]:
    """Tokens drawn at temperature 1 from random logits, and whether the end was drawn."""
    rng = np.random.default_rng(seed)
    state, tokens = constraint.start(), []
    for _ in range(most):
        logits = rng.gumbel(size=len(TOKENS) + 7).astype(np.float32)
        state.mask(logits)
        token = int(logits.argmax())
        if token == EOS:
            return tokens, True
        assert not state.finished
        state.accept(token)
        tokens.append(token)
    return tokens, False


def texts(tokenizer: ChatTokenizer, source: GrammarSource, count: int = 25) -> list[str]:
    """Answers that came to their end."""
    constraint = tokenizer.grammars.compile(source)
    drawn = [sample(constraint, seed) for seed in range(count)]
    ended = [tokenizer.decode(tokens) for tokens, end in drawn if end]
    assert len(ended) > 2
    return ended


@pytest.mark.parametrize("schema", [PERSON, NESTED, {"type": "integer"}, {"const": {"a": ["é"]}}])
def test_whatever_is_sampled_is_valid(tokenizer: ChatTokenizer, schema: dict[str, Any]) -> None:
    for text in texts(tokenizer, schema_grammar(schema, "schema")):
        jsonschema.validate(json.loads(text), schema)


def test_any_object(tokenizer: ChatTokenizer) -> None:
    for text in texts(tokenizer, schema_grammar(ANY_OBJECT, "format"), 60):
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (choice_grammar(["yes", 'no "really"', "né"], "c"), {"yes", 'no "really"', "né"}),
        (regex_grammar("a|b{2}", "r"), {"a", "bb"}),
        (lark_grammar('start: "x" ("y" | "z")', "g"), {"xy", "xz"}),
    ],
)
def test_exactly_what_is_allowed_can_be_sampled(
    tokenizer: ChatTokenizer, source: GrammarSource, allowed: set[str]
) -> None:
    assert set(texts(tokenizer, source)) == allowed


@pytest.mark.parametrize("kind", list(ToolFormat))
@pytest.mark.parametrize("parallel", [False, True])
def test_forced_calls_are_valid(tokenizer: ChatTokenizer, kind: ToolFormat, parallel: bool) -> None:
    source = call_grammar(TOOLS, kind, parallel=parallel, forced=True)
    seen = set()
    for text in texts(tokenizer, source):
        parser = parser_for(kind, {"greet", "now"})
        first, last = parser.push(text), parser.finish()
        calls = first.calls + last.calls
        assert calls
        assert first.content + last.content == ""
        assert parallel or len(calls) == 1
        for call in calls:
            seen.add(call.function.name)
            if call.function.name == "greet":
                jsonschema.validate(json.loads(call.function.arguments), PERSON)
    assert seen == {"greet", "now"}


@pytest.mark.parametrize("kind", list(ToolFormat))
def test_text_may_stand_in_place_of_a_strict_call(
    tokenizer: ChatTokenizer, kind: ToolFormat
) -> None:
    source = call_grammar(TOOLS, kind, parallel=True, forced=False)
    state = tokenizer.grammars.compile(source).start()
    for token in tokenizer.encode("the sea is <b>big</b>"):
        state.accept(token)
    logits = np.zeros(len(TOKENS), dtype=np.float32)
    state.mask(logits)
    assert logits[EOS] == 0


def test_a_strict_call_after_text_follows_its_schema(tokenizer: ChatTokenizer) -> None:
    source = call_grammar(TOOLS, ToolFormat.HERMES, parallel=True, forced=False)
    state = tokenizer.grammars.compile(source).start()
    good = 'Now: <tool_call>\n{"name": "greet", "arguments": {"name": "a", "age": '
    for token in tokenizer.encode(good):
        state.accept(token)
    with pytest.raises(EngineError):
        state.accept(tokenizer.encode('"')[0])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (schema_grammar({"type": "objekt"}, "f.schema"), "objekt"),
        (schema_grammar({"not": {"type": "string"}}, "f.schema"), "not"),
        (schema_grammar(False, "f.schema"), "f.schema"),
        (regex_grammar("(((", "f.regex"), "unclosed group"),
        (lark_grammar("start: FOO", "f.grammar"), "FOO"),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    tokenizer: ChatTokenizer, source: GrammarSource, reason: str
) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        tokenizer.grammars.compile(source)
    assert caught.value.param == source.param


def test_white_space_comes_to_an_end(tokenizer: ChatTokenizer) -> None:
    sources = [
        schema_grammar({"x-guidance": {"lenient": True}, "type": "object"}, "s"),
        call_grammar(TOOLS, ToolFormat.LLAMA, parallel=False, forced=True),
    ]
    for source in sources:
        state = tokenizer.grammars.compile(source).start()
        (space,) = tokenizer.encode(" ")
        for token in tokenizer.encode("{"):
            state.accept(token)
        logits = np.zeros(len(TOKENS), dtype=np.float32)
        for _ in range(17):
            state.mask(logits)
            if logits[space] < 0:
                break
            state.accept(space)
        assert logits[space] < 0


def test_a_request_cannot_have_its_schema_read_leniently(tokenizer: ChatTokenizer) -> None:
    source = schema_grammar({"x-guidance": {"lenient": True}, "if": {}}, "s")
    with pytest.raises(RequestError, match="if"):
        tokenizer.grammars.compile(source)


def test_a_compiled_grammar_is_kept_and_its_answers_are_apart(tokenizer: ChatTokenizer) -> None:
    source = regex_grammar("ab", "r")
    one = tokenizer.grammars.compile(source)
    assert tokenizer.grammars.compile(source) is one
    ahead, behind = one.start(), one.start()
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    ahead.accept(a)
    behind.accept(a)
    ahead.accept(b)
    assert (ahead.finished, behind.finished) == (True, False)
    with pytest.raises(EngineError, match="grammar"):
        behind.accept(a)
