"""Conversations to tokens and back, from an artifact's `tokenizer.json` and chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from fungible.artifacts.model_config import ModelConfig
from fungible.contract.openai import ChatMessage
from fungible.engine.detokenizer import Detokenizer, Pieces
from fungible.engine.grammar import GrammarCompiler
from fungible.engine.template import ChatTemplate
from fungible.engine.tool_calls import ToolFormat, format_of
from fungible.engine.tool_prompt import spelled_out, turns
from fungible.errors import ArtifactError, UnsupportedError


class ChatTokenizer:
    """The text side of a model.

    Args:
        directory: An artifact with `tokenizer.json` and `chat_template.jinja`.
        config: Names the first and last tokens of a text.

    Attributes:
        pieces: The bytes of each token.
        grammars: Compiles constraints on its tokens.

    Raises:
        ArtifactError: A file is missing or malformed; names it.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        path = directory / "tokenizer.json"
        text = _read(path)
        try:
            self._tokenizer = Tokenizer.from_str(text)
            decoder = msgspec.json.decode(text).get("decoder")
        except Exception as error:  # tokenizers raises nothing narrower
            raise ArtifactError(f"{path}: not a tokenizer: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        special = frozenset(token for token, entry in added.items() if entry.special)
        size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        vocabulary = [self._tokenizer.id_to_token(token) for token in range(size)]
        self.pieces = Pieces(vocabulary, special, decoder, str(path))
        self.grammars = GrammarCompiler(text, sorted(config.eos_ids))
        template = directory / "chat_template.jinja"
        self._template = ChatTemplate(
            _read(template), where=str(template), tokens=_named_tokens(vocabulary, config)
        )

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes the calls of tools; a template without tools uses Hermes'."""
        return format_of(self._template.source)

    def render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The prompt as text, ending where the answer starts.

        Args:
            messages: The conversation.
            tools: What the answer may call, in OpenAI's form.

        Raises:
            RequestError: The template refuses the conversation.
            UnsupportedError: A part of a message is not text.
        """
        for at, message in enumerate(messages):
            _check_text_only(at, message)
        made = turns(messages)
        if "tools" not in self._template.source:
            return self._template.render(spelled_out(made, tools))
        return self._template.render(made, tools)

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`; control tokens only where the text spells them out."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_bare(self, text: str) -> tuple[list[int], int]:
        """Tokens of a text that no template wraps, as the model was trained to see one.

        The second number counts the control tokens that the tokenizer itself puts first.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=True)
        ids: list[int] = encoding.ids
        added = [bool(one) for one in encoding.special_tokens_mask]
        return ids, added.index(False) if False in added else len(added)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of whole `tokens`, control tokens left out."""
        stream = self.stream()
        return "".join(stream.push(token) for token in tokens)

    def stream(self, *, continues: bool = False) -> Detokenizer:
        """A fresh detokeniser for one answer.

        Args:
            continues: The answer goes on in a text, rather than being one.
        """
        return Detokenizer(self.pieces, continues=continues)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: cannot be read: {error}",
            hint="build the artifact again with `fungible artifact build`",
        ) from error


def _named_tokens(vocabulary: Sequence[str | None], config: ModelConfig) -> dict[str, str]:
    ids = {"bos_token": config.bos_id, "eos_token": next(iter(config.eos_ids), None)}
    return {
        name: vocabulary[token] or ""
        for name, token in ids.items()
        if token is not None and token < len(vocabulary)
    }


def _check_text_only(at: int, message: ChatMessage) -> None:
    if not isinstance(message.content, list):
        return
    for number, part in enumerate(message.content):
        if part.get("type") != "text":
            where = f"messages[{at}].content[{number}]"
            raise UnsupportedError(
                f"{where} is of type {part.get('type')!r}; this model reads only text",
                param=where,
            )
