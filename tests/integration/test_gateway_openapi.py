"""The published document, and requests made from it: right ones, wrong ones and odd ones."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fungible.config import BackendSettings, Config, GatewaySettings, KeySettings, RouteSettings
from fungible.contract.anthropic import AnthropicError, error_type
from fungible.contract.openai import OpenAIError
from fungible.contract.sse import split_frames
from fungible.gateway.endpoints import ENDPOINTS
from fungible.wire.messages import anthropic_error
from support.control_setup import write_config
from support.processes import Server

KEY = "fk-fuzz"
MODEL = "assistant-of-the-secret-project"
READS = ("/v1/models", "/health", "/openapi.json")
EXAMPLES = 40
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = Config(
        home=str(tmp_path_factory.mktemp("fuzzed")),
        gateway=GatewaySettings(port=0),
        backend={"a": BackendSettings(kind="null")},
        route={MODEL: RouteSettings(reference="a", retries=0)},
        key={"fuzz": KeySettings(hash=hashlib.sha256(KEY.encode()).hexdigest())},
    )
    with Server("gateway", "serve", "--config", str(write_config(config))) as server:
        yield server.url


@pytest.fixture
def statuses() -> Counter[int]:
    return Counter()


@pytest.fixture(scope="module")
def schema(gateway: str) -> Any:
    config = SchemathesisConfig()
    config.projects.default.generation.with_security_parameters = False
    return schemathesis.openapi.from_url(f"{gateway}/openapi.json", config=config)


def test_the_document_names_every_path(schema: Any) -> None:
    schema.validate()
    assert set(schema.raw_schema["paths"]) == {*ENDPOINTS, *READS}
    for result in schema.get_all_operations():
        result.ok()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "temperature"),
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "n"),
        ("/v1/completions", "logprobs"),
        ("/v1/responses", "top_p"),
        ("/v1/messages", "top_k"),
        ("/v1/messages", "max_tokens"),
    ],
)
def test_the_ranges_of_the_document_are_those_that_are_held_to(
    gateway: str, schema: Any, path: str, field: str
) -> None:
    raw = schema.raw_schema
    content = raw["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    said = raw["components"]["schemas"][name]["properties"][field]
    head = {"authorization": f"Bearer {KEY}"}
    for value, ok in (
        (said["minimum"] - 1, False),
        (said["maximum"] + 1, False),
        (said["minimum"], True),
    ):
        body = plain(path) | {field: value}
        answer = requests.post(gateway + path, headers=head, json=body, timeout=30)
        assert answer.ok or not ok, answer.text
        if not ok:
            assert answer.status_code == 400
            assert f"{field} is {value}; it must be in" in answer.json()["error"]["message"]


def test_the_document_is_open_and_says_nothing_of_the_configuration(gateway: str) -> None:
    answer = requests.get(f"{gateway}/openapi.json", timeout=30)
    assert answer.status_code == 200
    for word in ("assistant-of-the-secret-project", "fuzzed", KEY):
        assert word not in answer.text
    assert requests.get(f"{gateway}/v1/models", timeout=30).status_code == 401


@pytest.mark.parametrize("path", [*ENDPOINTS, *READS])
def test_another_method_is_told_which_is_allowed(gateway: str, path: str) -> None:
    head = {"authorization": f"Bearer {KEY}"}
    answer = requests.delete(gateway + path, headers=head, timeout=30)
    assert answer.status_code == 405
    assert answer.headers["allow"] == ("POST" if path in ENDPOINTS else "GET, HEAD")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", list(ENDPOINTS))
def test_no_request_breaks_an_endpoint(
    schema: Any, statuses: Counter[int], path: str, mode: GenerationMode
) -> None:
    session = requests.Session()
    session.headers["authorization"] = f"Bearer {KEY}"
    cases = schema[path]["POST"].as_strategy(generation_mode=mode)

    @given(case=cases, known=st.sampled_from([True, True, True, False]))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any, known: bool) -> None:
        body = case.body
        if known and isinstance(body, dict) and isinstance(body.get("model"), str):
            body["model"] = MODEL
            if mode is GenerationMode.POSITIVE and "max_tokens" in body:
                body["max_tokens"] = 9
        response = case.call(session=session)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        check_form(path, response)

    ask()
    if mode is GenerationMode.NEGATIVE:
        assert statuses[400]


@pytest.mark.parametrize("path", list(ENDPOINTS))
def test_a_plain_request_is_answered(gateway: str, path: str) -> None:
    """What the fuzzer makes may all be refused for good reasons: this may not."""
    head = {"authorization": f"Bearer {KEY}"}
    answer = requests.post(gateway + path, headers=head, json=plain(path), timeout=30)
    assert answer.status_code == 200, answer.text


def plain(path: str) -> dict[str, Any]:
    """A request that nobody can mind."""
    turns = [{"role": "user", "content": "hi"}]
    asked: dict[str, Any] = {"prompt": "hi"} if path == "/v1/completions" else {"input": "hi"}
    if path.startswith(("/v1/chat", "/v1/messages")):
        asked = {"messages": turns, "max_tokens": 9}
    if path == "/v1/messages/count_tokens":
        del asked["max_tokens"]
    return {"model": MODEL} | asked


def check_form(path: str, response: Response) -> None:
    """Errors are the endpoint's own, and streams end in its last event."""
    status, wire = response.status_code, ENDPOINTS[path]
    (kind,) = response.headers["content-type"]
    if status >= 400:
        assert kind == "application/json"
        said = response.json()
        if wire.error_body is anthropic_error:
            read = msgspec.convert(said, AnthropicError)
            assert read.error.type == error_type(status)
            assert msgspec.to_builtins(read) == said
        else:
            assert msgspec.to_builtins(msgspec.convert(said, OpenAIError)) == said
    elif kind.startswith("text/event-stream"):
        (*_, last) = split_frames(response.content)
        assert wire.last.encode() in last or b"response.incomplete" in last
