import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.engine.tool_calls import ToolFormat, format_of, parser_for

NAMES = {"get", "put"}
GET = '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>'
Calls = list[tuple[str, object]]


def read(kind: ToolFormat, pieces: list[str]) -> tuple[str, Calls]:
    """Content and calls of an answer that comes in pieces."""
    parser = parser_for(kind, NAMES)
    got = [parser.push(piece) for piece in pieces] + [parser.finish()]
    calls = [one for each in got for one in each.calls]
    assert len({one.id for one in calls}) == len(calls)
    content = "".join(one.content for one in got)
    return content, [(one.function.name, json.loads(one.function.arguments)) for one in calls]


HERMES, LLAMA, MISTRAL = ToolFormat
CASES: list[tuple[ToolFormat, str, str, Calls]] = [
    (HERMES, "just text < here ", "just text < here ", []),
    (HERMES, GET, "", [("get", {"a": 1})]),
    (HERMES, f"Let me see.\n{GET}\n{GET}\n", "Let me see.", [("get", {"a": 1})] * 2),
    (HERMES, f"one {GET} two {GET}", "one two", [("get", {"a": 1})] * 2),
    (HERMES, f"{GET}\n done", "done", [("get", {"a": 1})]),
    (HERMES, GET.removesuffix("</tool_call>"), "", [("get", {"a": 1})]),
    (
        HERMES,
        '<tool_call>{"name": "put", "arguments": {"t": "\\"</tool_call>"}}</tool_call>',
        "",
        [("put", {"t": '"</tool_call>'})],
    ),
    (HERMES, "<tool_call>{oops}</tool_call> x", "<tool_call>{oops}</tool_call> x", []),
    (HERMES, '<tool_call>{"name": "rm"}</tool_call>', '<tool_call>{"name": "rm"}</tool_call>', []),
    (HERMES, "a <tool_call>never", "a <tool_call>never", []),
    (HERMES, "a <tool_c", "a <tool_c", []),
    (LLAMA, '{"name": "get", "parameters": {"a": 1}}', "", [("get", {"a": 1})]),
    (
        LLAMA,
        '<|python_tag|>{"name": "get", "parameters": {}}; {"name": "put", "parameters": {}}',
        "",
        [("get", {}), ("put", {})],
    ),
    (LLAMA, '{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', []),
    (LLAMA, '{"name": "get", ', '{"name": "get", ', []),
    (LLAMA, "It is {not} JSON", "It is {not} JSON", []),
    (MISTRAL, '[TOOL_CALLS][{"name": "get", "arguments": {"a": 1}}]', "", [("get", {"a": 1})]),
    (MISTRAL, '[{"name": "get", "arguments": "{\\"a\\": 1}"}]', "", [("get", {"a": 1})]),
    (MISTRAL, '[TOOL_CALLS]get[ARGS]{"a": 1}', "", [("get", {"a": 1})]),
    (MISTRAL, 'get{"a": 1}', "", [("get", {"a": 1})]),
    (
        MISTRAL,
        '[TOOL_CALLS]get[CALL_ID]x1[ARGS]{"a": "[TOOL_CALLS]"}[TOOL_CALLS]put[ARGS]{}',
        "",
        [("get", {"a": "[TOOL_CALLS]"}), ("put", {})],
    ),
    (MISTRAL, "[TOOL_CALLS]rm[ARGS]{}", "[TOOL_CALLS]rm[ARGS]{}", []),
    (MISTRAL, 'get[ARGS]{"a": ', 'get[ARGS]{"a": ', []),
    (MISTRAL, "get{} and more", "get{} and more", []),
    (MISTRAL, "get it done", "get it done", []),
    (MISTRAL, "[TOOL_CALLS]", "[TOOL_CALLS]", []),
    (MISTRAL, "[1, 2]", "[1, 2]", []),
    (MISTRAL, "[TOOL", "[TOOL", []),
]


@pytest.mark.parametrize(("kind", "text", "content", "calls"), CASES)
def test_what_is_read(kind: ToolFormat, text: str, content: str, calls: Calls) -> None:
    assert read(kind, [text]) == (content, calls)
    assert read(kind, list(text)) == (content, calls)


@st.composite
def _answers(draw: st.DrawFn) -> tuple[ToolFormat, list[str]]:
    marks = ["<tool_call>", "</tool_call>", GET, "[TOOL_CALLS]", "<|python_tag|>", " ", "\n", '"']
    fragments = st.one_of(
        st.sampled_from([*marks, '{"name": "get"}', "[", "{", ";", "\\"]), st.text(max_size=3)
    )
    text = "".join(draw(st.lists(fragments, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    starts, ends = [0, *cuts], [*cuts, len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return draw(st.sampled_from(ToolFormat)), pieces


@given(_answers())
def test_how_the_text_was_cut_does_not_matter(answer: tuple[ToolFormat, list[str]]) -> None:
    kind, pieces = answer
    assert read(kind, pieces) == read(kind, ["".join(pieces)])


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("no word of it", HERMES),
        ("{{ tools }} <tool_call>", HERMES),
        ("{{ tools }} [TOOL_CALLS]", MISTRAL),
        ('{{ tools }} {"name": x, "parameters": y}', LLAMA),
    ],
)
def test_the_template_says_which_format(template: str, kind: ToolFormat) -> None:
    assert format_of(template) is kind
