"""Chat templates, rendered as Hugging Face transformers renders them.

Same sandbox, same whitespace rules, same helper functions (`raise_exception`, `strftime_now`,
`tojson`) and the same `{% generation %}` tag: see `transformers.utils.chat_template_utils`.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fungible.errors import ArtifactError, RequestError


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks an answer for training; here it is inert."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it on the instance

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: The Jinja source.
        where: Its file, for error messages.
        tokens: Special tokens that templates may name, such as `bos_token`.

    Attributes:
        source: The Jinja source.

    Raises:
        ArtifactError: The source is not valid Jinja; names file and line.
    """

    def __init__(self, source: str, *, where: str, tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = dict(tokens)
        self.source = source
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ArtifactError(f"{where}:{error.lineno}: {error.message}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt for an answer to `messages` (`{"role": …, "content": …}` each).

        Args:
            messages: The conversation.
            tools: What the answer may call, in OpenAI's form.

        Raises:
            RequestError: The template refuses the conversation, such as two user turns in a row.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=list(tools) if tools else None,
                **self._tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


def _tojson(
    value: Any,  # noqa: ANN401  # whatever the template passes
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
