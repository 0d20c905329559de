"""The contract as an OpenAPI 3.1 document: `GET /openapi.json`.

Paths come from `ENDPOINTS`, and schemas from the structs that read requests and write answers,
so neither can drift from what is served. Nothing of the configuration is in it.
"""

import functools
import inspect
from typing import Any

import msgspec

from fungible.contract import anthropic, completions, embeddings, openai, responses
from fungible.contract.inference import Endpoint
from fungible.gateway.endpoints import ENDPOINTS

_REF = "#/components/schemas/{name}"
_JSON = "application/json"


class Health(msgspec.Struct, kw_only=True):
    """Whether the gateway serves, and by what.

    Attributes:
        status: `degraded` while rows cannot be written or a backend is left alone.
        rows: `refused` or `lost` while rows cannot be written.
        rows_lost: Since this process started.
        breakers: How many backends' circuit breakers are in which state.
        config_hash: Of the configuration in force.
        config: `kept` while the file is one that was refused.
    """

    status: str = "ok"
    route_version: int
    rows: str
    rows_lost: int
    breakers: dict[str, int]
    config_hash: str | msgspec.UnsetType = msgspec.UNSET
    config: str | msgspec.UnsetType = msgspec.UNSET


class _Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What one endpoint takes and gives; `events` says what a stream is made of."""

    summary: str
    request: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    error: type[msgspec.Struct] = openai.OpenAIError
    events: str = ""
    event: type[msgspec.Struct] | None = None


_SHAPES: dict[Endpoint, _Shape] = {
    "chat/completions": _Shape(
        summary="Continue a conversation (OpenAI chat)",
        request=openai.ChatRequest,
        answer=openai.ChatCompletion,
        events="`data:` holds a `ChatChunk`; the last one is `[DONE]`",
        event=openai.ChatChunk,
    ),
    "completions": _Shape(
        summary="Continue a text (OpenAI completions)",
        request=completions.CompletionRequest,
        answer=completions.Completion,
        events="`data:` holds a `Completion`; the last one is `[DONE]`",
    ),
    "embeddings": _Shape(
        summary="Embed texts (OpenAI embeddings)",
        request=embeddings.EmbeddingRequest,
        answer=embeddings.EmbeddingList,
    ),
    "responses": _Shape(
        summary="Make a response (OpenAI Responses)",
        request=responses.ResponsesRequest,
        answer=responses.Response,
        events="typed events; the last one is `response.completed` or `response.incomplete`",
    ),
    "messages": _Shape(
        summary="Continue a conversation (Anthropic Messages)",
        request=anthropic.MessagesRequest,
        answer=anthropic.Message,
        error=anthropic.AnthropicError,
        events="typed events; the last one is `message_stop`",
    ),
    "messages/count_tokens": _Shape(
        summary="Count the tokens of a prompt (Anthropic)",
        request=anthropic.CountTokensRequest,
        answer=anthropic.TokenCount,
        error=anthropic.AnthropicError,
    ),
}

# Headers of requests: whom a request is for, where the key does not say.
_ASKED = {
    "x-fungible-feature": "The feature that asks.",
    "x-fungible-customer": "The customer it is asked for.",
    "x-fungible-session": "The conversation it belongs to.",
    "x-fungible-tags": "More, as `name=value, …`.",
    "traceparent": "The client's span (W3C Trace Context): kept on the attempts.",
}
_ANSWERED = {
    "x-fungible-backend": "The backend that answered.",
    "x-fungible-route-version": "The route table that chose it.",
    "x-fungible-ledger": "`durable`, or `pending` until a stream's last event.",
    "x-fungible-dropped": "Fields that the backend was not sent, where there are any.",
    "x-fungible-cost": "What the answering attempt cost, where it is known by now.",
}
_REQUEST_ID = {
    "x-fungible-request-id": {
        "description": "Shared by all attempts of the request in the ledger.",
        "schema": {"type": "string"},
    }
}


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    kinds: list[Any] = [openai.ModelList, openai.OpenAIError, Health]
    for shape in _SHAPES.values():
        kinds += [shape.request, shape.answer, shape.error]
        kinds += [shape.event] if shape.event else []
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    paths: dict[str, Any] = {
        path: {"post": _operation(wire.endpoint)} for path, wire in ENDPOINTS.items()
    }
    paths["/v1/models"] = {
        "get": _read("models", "The models that the key may ask for", openai.ModelList)
    }
    for path, summary, schema in (
        ("/health", "Whether the gateway serves", _ref(Health)),
        ("/openapi.json", "This document", {"type": "object"}),
    ):
        paths[path] = {"get": _read(path.strip("/"), summary, schema) | {"security": []}}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Fungible gateway",
                # Of the contract: an open path does not tell which release runs.
                "version": "1",
                "description": "Fields that a schema does not name are passed through.",
            },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "security": [{"bearer": []}, {"api_key": []}],
        }
    )


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    shape = _SHAPES[endpoint]
    content: dict[str, Any] = {_JSON: {"schema": _ref(shape.answer)}}
    told = "The answer."
    if shape.events:
        content["text/event-stream"] = {}
        told = f"The answer, or events where `stream` is true: {shape.events}."
    asked = [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in _ASKED.items()
    ]
    answered = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in _ANSWERED.items()
    }
    return {
        "operationId": endpoint.replace("/", "_"),
        "summary": shape.summary,
        "parameters": asked,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(shape.request)}}},
        "responses": {
            "200": {
                "description": told,
                "headers": _REQUEST_ID | answered,
                "content": content,
            }
        }
        | _errors(shape.error),
    }


def _read(name: str, summary: str, answer: type[msgspec.Struct] | dict[str, Any]) -> dict[str, Any]:
    schema = answer if isinstance(answer, dict) else _ref(answer)
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": _REQUEST_ID,
                "content": {_JSON: {"schema": schema}},
            }
        }
        | _errors(openai.OpenAIError),
    }


def _errors(error: type[msgspec.Struct]) -> dict[str, Any]:
    content = {_JSON: {"schema": _ref(error)}}
    return {
        status: {"description": text, "headers": _REQUEST_ID, "content": content}
        for status, text in (
            ("4XX", "The request was refused; the status and the code say why."),
            ("5XX", "No backend could answer, or the gateway failed."),
        )
    }


def _ref(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=kind.__name__)}
