from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.contract.openai import ChatMessage
from fungible.engine.tokenizer import ChatTokenizer
from fungible.engine.tool_calls import ToolFormat
from fungible.errors import RequestError
from support.engine_setup import write_tokenizer
from support.tiny_model import CONFIG

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get", "parameters": {}}}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get", "arguments": '{"a": 1}'},
}
KNOWS_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for one in messages %}"
    "|{{ one.role }}:{{ one.content }}"
    "{% for call in one.tool_calls or [] %}[TOOL_CALLS]{{ call.function.arguments.a + 1 }}"
    "{% endfor %}{% endfor %}"
)


def conversation(*turns: dict[str, Any]) -> list[ChatMessage]:
    return msgspec.convert(list(turns), list[ChatMessage])


CHAT = conversation(
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "7"},
)


def test_a_template_that_knows_tools_gets_arguments_as_an_object(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=KNOWS_TOOLS)
    tokenizer = ChatTokenizer(tmp_path, CONFIG)
    shown = tokenizer.render(CHAT, [TOOL])
    assert shown.startswith('[{"type": "function"')
    assert shown.endswith("|system:Be kind.|user:hi|assistant:[TOOL_CALLS]2|tool:7")
    assert tokenizer.tool_format is ToolFormat.MISTRAL


def test_a_template_that_knows_none_is_told_in_the_system_prompt(tokenizer: ChatTokenizer) -> None:
    shown = tokenizer.render(CHAT, [TOOL])
    system, user, call, result, _ = shown.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe kind.\n\n")
    assert '{"type": "function", "function": {"name": "get", "parameters": {}}}' in system
    assert user == "user\nhi<|im_end|>\n"
    assert '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>' in call
    assert result == "user\n<tool_response>\n7\n</tool_response><|im_end|>\n"


def test_without_tools_nothing_is_told(tokenizer: ChatTokenizer) -> None:
    assert "tool" not in tokenizer.render(CHAT[:2])


@pytest.mark.parametrize("arguments", ["{", "[1]"])
def test_arguments_that_are_no_object_are_named(tokenizer: ChatTokenizer, arguments: str) -> None:
    call = {"function": {"name": "get", "arguments": arguments}}
    with pytest.raises(RequestError) as caught:
        tokenizer.render(conversation({"role": "assistant", "tool_calls": [call]}))
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"
