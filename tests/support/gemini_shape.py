"""The body of generateContent as Google documents it (Vertex AI REST reference, `v1`).

Written from the reference, closed: a field that it does not name is an error.
"""

from typing import Any, Literal

import msgspec


class _Closed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    pass


class Blob(_Closed):
    mime_type: str
    data: str


class FileData(_Closed):
    mime_type: str
    file_uri: str


class FunctionCall(_Closed):
    name: str
    args: dict[str, Any] = {}
    id: str | None = None


class FunctionResponse(_Closed):
    name: str
    response: dict[str, Any]
    id: str | None = None


class Part(_Closed):
    """Exactly one of the data fields."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None

    def __post_init__(self) -> None:
        data = (self.text, self.inline_data, self.file_data)
        found = [*data, self.function_call, self.function_response]
        if sum(one is not None for one in found) != 1:
            raise ValueError("a part holds exactly one kind of data")


class Content(_Closed):
    parts: list[Part]
    role: Literal["user", "model"] | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must not be empty")


class FunctionDeclaration(_Closed):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class Tool(_Closed):
    function_declarations: list[FunctionDeclaration] = []


class FunctionCallingConfig(_Closed):
    mode: Literal["AUTO", "ANY", "NONE"]
    allowed_function_names: list[str] = []


class ToolConfig(_Closed):
    function_calling_config: FunctionCallingConfig


class ThinkingConfig(_Closed):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: Literal["MINIMAL", "LOW", "MEDIUM", "HIGH"] | None = None


class GenerationConfig(_Closed):
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] = []
    response_logprobs: bool | None = None
    logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: ThinkingConfig | None = None


class SafetySetting(_Closed):
    category: str
    threshold: str


class GenerateContentRequest(_Closed):
    contents: list[Content]
    system_instruction: Content | None = None
    tools: list[Tool] = []
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    safety_settings: list[SafetySetting] = []


def check_gemini(body: object) -> None:
    """Raise `AssertionError` unless it is such a request."""
    try:
        msgspec.convert(body, GenerateContentRequest)
    except msgspec.ValidationError as error:
        raise AssertionError(str(error)) from error
