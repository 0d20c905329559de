"""`POST /tokenize` and `POST /detokenize`, in vLLM's form: the model's tokens of a text."""

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fungible.contract.openai import ChatMessage, decode_body, read_fields
from fungible.engine.bare_prompt import spell
from fungible.engine.exchange import read_body
from fungible.engine.runtimes.base import RuntimeLimits
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import RequestError, UnknownModelError


class _TokenizeRequest(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class _TokenizeAnswer(msgspec.Struct, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class _DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


class TokenizeEndpoints:
    """Text to tokens and back.

    Args:
        model: The one name that requests may ask for; they may leave it out.
    """

    def __init__(self, tokenizer: ChatTokenizer, model: str, limits: RuntimeLimits) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._limits = limits

    async def tokenize(self, request: Request) -> Response:
        """Tokens of `prompt`, or of `messages` as the chat template renders them."""
        asked = read_fields(decode_body(await read_body(request)), _TokenizeRequest)
        self._check_model(asked.model)
        tokens = await asyncio.to_thread(self._tokens, asked)
        strings = [spell(self._tokenizer.pieces, [token])[0] for token in tokens]
        answer = _TokenizeAnswer(
            count=len(tokens),
            max_model_len=self._limits.context,
            tokens=tokens,
            token_strs=strings if asked.return_token_strs else None,
        )
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """The text of `tokens`, control tokens spelled out."""
        asked = read_fields(decode_body(await read_body(request)), _DetokenizeRequest)
        self._check_model(asked.model)
        for at, token in enumerate(asked.tokens):
            if not 0 <= token < self._limits.vocab:
                raise RequestError(
                    f"tokens[{at}] is {token}; this model's tokens are 0 to "
                    f"{self._limits.vocab - 1}",
                    param=f"tokens[{at}]",
                )
        text, _ = spell(self._tokenizer.pieces, asked.tokens)
        return Response(msgspec.json.encode({"prompt": text}), media_type="application/json")

    def _tokens(self, asked: _TokenizeRequest) -> list[int]:
        if (asked.prompt is None) == (asked.messages is None):
            raise RequestError("send either prompt or messages", param="prompt")
        if asked.messages is not None:
            return self._tokenizer.encode(self._tokenizer.render(asked.messages))
        text = asked.prompt or ""
        if asked.add_special_tokens is False:
            return self._tokenizer.encode(text)
        return self._tokenizer.encode_bare(text)[0]

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self._model):
            raise UnknownModelError(
                f"model {model!r} is not served here",
                hint=f"this engine serves {self._model!r}",
                param="model",
            )
