"""What a client of the gateway gets, right and wrong."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from fungible.config import BackendSettings, GatewaySettings, KeySettings, RouteSettings
from fungible.errors import ConfigError
from support.gateway import BODY, Make
from support.upstream import Script, Upstream

ROUTES = {"m": RouteSettings(reference="a"), "n": RouteSettings(reference="a")}
NULL = {"a": BackendSettings(kind="null")}


def key(secret: str, **fields: object) -> KeySettings:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return msgspec.convert({"hash": digest, **fields}, KeySettings)


KEYS = {
    "team": key("fk-team", owner="o", customer="acme"),
    "old": key("fk-old", expires="2001-01-01"),
    "last": key("fk-last", expires="9999-12-31", models=["n"], feature="f"),
}


async def test_an_answer_says_who_gave_it(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        answer = await gateway.ask()
        assert answer.status == 200
        assert answer.json()["choices"][0]["message"]["content"] == "null answer"
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-fungible-backend"] == "a"
        assert answer.headers["x-fungible-route-version"] == "0"
        (row,) = gateway.rows()
        assert row.request_id == answer.headers["x-fungible-request-id"]


async def test_a_stream_ends_with_done(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        answer = await gateway.ask(stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        events = answer.events()
        assert events[-1] == "[DONE]"
        assert not any(event.get("usage") for event in events[:-1])
        assert answer.headers["x-fungible-request-id"] == gateway.rows()[0].request_id


@pytest.mark.parametrize(
    ("secret", "words"),
    [("", "no API key"), ("fk-wrong", "not known"), ("fk-old", "expired"), (" ", "no API key")],
)
async def test_a_bad_key_gets_nothing(serving: Make, secret: str, words: str) -> None:
    async with serving(backend=NULL, route=ROUTES, key=KEYS) as gateway:
        for call in (
            gateway.call(key=secret),
            gateway.call(path="/v1/models", key=secret, get=True),
        ):
            answer = await call.done()
            assert answer.status == 401
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert words in error["message"]
            assert "fk-wrong" not in error["message"]
        assert gateway.rows() == []


async def test_without_a_key_nobody_learns_what_is_served(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES, key=KEYS) as gateway:
        for path, get in (("/v1/nothing", False), ("/v1/models", False), ("/v1/nothing", True)):
            assert (await gateway.call(path=path, get=get).done()).status == 401
        assert (await gateway.call(path="/health", get=True).done()).status == 200


PRICES = """\
key,unit,leaf,price,currency
a,1M_tokens,input,3,USD
a,1M_tokens,output,15.000001,USD
"""


async def test_a_whole_answer_says_what_it_cost_and_that_its_row_is_kept(
    serving: Make, tmp_path: Path
) -> None:
    (tmp_path / "prices.csv").write_text(PRICES)
    async with serving(backend=NULL, route=ROUTES) as gateway:
        whole, stream = await gateway.ask(), await gateway.ask(stream=True)
    assert whole.headers["x-fungible-ledger"] == "durable"
    # One token in, two out.
    assert whole.headers["x-fungible-cost"] == "0.000033000002 USD"
    assert stream.headers["x-fungible-ledger"] == "pending"
    assert "x-fungible-cost" not in stream.headers


async def test_a_cost_that_is_not_known_is_not_said(serving: Make, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(PRICES)
    silent = {"a": BackendSettings(kind="null", options={"usage": False})}
    async with serving(backend=silent, route=ROUTES) as gateway:
        assert "x-fungible-cost" not in (await gateway.ask()).headers


async def test_a_key_sees_only_its_models(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES, key=KEYS) as gateway:
        for secret, names in (("fk-team", ["m", "n"]), ("fk-last", ["n"])):
            models = await gateway.call(path="/v1/models", key=secret, get=True).done()
            assert [model["id"] for model in models.json()["data"]] == names
        refused = await gateway.ask("fk-last")
        assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert "models: n" in refused.json()["error"]["message"]
        assert (await gateway.ask("fk-last", model="n")).status == 200


async def test_the_key_decides_whom_a_request_is_for(serving: Make) -> None:
    said = {"customer": "evil", "feature": "search", "session": "s1", "env": "prod"}
    async with serving(backend=NULL, route=ROUTES, key=KEYS) as gateway:
        await gateway.ask("fk-team", metadata=said, user="u1")
        await gateway.ask("fk-last", model="n", metadata=said | {"session": ""}, user="u1")
        first, second = gateway.rows()
    assert (first.key, first.owner, first.customer, first.feature) == (
        "team",
        "o",
        "acme",
        "search",
    )
    assert (first.session, first.tags) == ("s1", {"env": "prod"})
    assert (second.key, second.customer, second.feature) == ("last", "evil", "f")
    assert second.session == "u1"


async def test_a_row_does_not_grow_with_what_a_client_sends(serving: Make) -> None:
    tags = {f"{at:02}{'k' * 100}": "v" * 10_000 for at in range(50)}
    async with serving(backend=NULL, route=ROUTES) as gateway:
        await gateway.ask(metadata=tags | {"feature": "f" * 10_000}, user="u" * 10_000)
        (row,) = gateway.rows()
    assert len(row.tags) == 16
    assert {(len(name), len(text)) for name, text in row.tags.items()} == {(64, 512)}
    assert (len(row.feature), len(row.session)) == (512, 512)


async def test_without_keys_everybody_is_anonymous(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        assert (await gateway.ask("anything", metadata={"customer": "c"})).status == 200
        (row,) = gateway.rows()
        assert (row.key, row.customer) == ("", "c")


def test_an_expiry_that_is_no_date_is_named(serving: Make) -> None:
    from fungible.config import Config  # noqa: PLC0415
    from fungible.gateway.auth import KeyRing  # noqa: PLC0415

    with pytest.raises(ConfigError, match=r"key\.k\.expires: 'soon'"):
        KeyRing(Config(key={"k": key("x", expires="soon")}))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"{no", None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b"\xff\xfe", None, "not valid JSON"),
        (b'{"a":' * 100_000, None, "nested too deeply"),
        (b"[]", None, "Expected `object`"),
        ({**BODY, "messages": []}, "messages", "must not be empty"),
        ({**BODY, "temperature": "hot"}, "temperature", "Expected"),
        ({**BODY, "temperature": 3}, "temperature", "must be in"),
        ({**BODY, "n": 129}, "n", "must be in"),
        ({"model": "m"}, "messages", "messages"),
        ({**BODY, "metadata": {"a": 1}}, "metadata", "Expected `str`"),
        ({**BODY, "messages": [{"role": "wizard"}]}, "messages[0].role", "wizard"),
    ],
)
async def test_a_malformed_request_names_its_field(
    serving: Make, body: object, param: str | None, words: str
) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        answer = await gateway.call(body).done()
        assert answer.status == 400
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert words in error["message"]
        assert gateway.rows() == []


async def test_a_body_that_is_too_large_is_not_read(serving: Make) -> None:
    small = GatewaySettings(max_body_bytes=1000)
    async with serving(backend=NULL, route=ROUTES, gateway=small) as gateway:
        answer = await gateway.ask(user="x" * 1000)
        assert answer.status == 413
        assert "1000 bytes" in answer.json()["error"]["message"]
        assert (await gateway.ask(user="x" * 500)).status == 200


async def test_paths_and_methods_that_are_not_served(serving: Make) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        missing = await gateway.call(path="/v1/nothing").done()
        assert missing.status == 404
        assert "/v1/chat/completions" in missing.json()["error"]["message"]
        assert (await gateway.call(get=True).done()).status == 405
        health = await gateway.call(path="/health", get=True).done()
        written = {"rows": "written", "rows_lost": 0, "breakers": {"closed": 1}}
        assert health.json() == {"status": "ok", "route_version": 0} | written


@pytest.mark.parametrize(
    "fault", [Script(cut_after=1), Script(error_after=1), Script(reset_after=1)]
)
async def test_a_broken_stream_ends_in_an_error_and_no_done(
    serving: Make, upstream: Upstream, fault: Script
) -> None:
    upstream.default = fault
    async with serving(backend={"a": BackendSettings(url=upstream.url)}, route=ROUTES) as gateway:
        answer = await gateway.ask(stream=True)
        assert answer.status == 200
        first, last = answer.events()
        assert first["choices"][0]["delta"]["content"] == "Grüße"
        assert last["error"]["code"] == "stream_broken"
        assert [row.status for row in gateway.rows()] == ["interrupted"]


@pytest.mark.parametrize(
    ("upstream_status", "status", "code"),
    [
        (400, 400, "upstream_rejected"),
        (429, 429, "upstream_busy"),
        (500, 502, "upstream_unreachable"),
        (401, 502, "upstream_misconfigured"),
    ],
)
async def test_what_an_upstream_refuses_reaches_the_client(
    serving: Make, upstream: Upstream, upstream_status: int, status: int, code: str
) -> None:
    upstream.default = Script(status=upstream_status)
    async with serving(backend={"a": BackendSettings(url=upstream.url)}, route=ROUTES) as gateway:
        for stream in (True, False):
            answer = await gateway.ask(stream=stream)
            assert (answer.status, answer.json()["error"]["code"]) == (status, code)


async def test_the_rest_that_an_upstream_asked_for_is_passed_on(
    serving: Make, upstream: Upstream
) -> None:
    upstream.default = Script(status=429, headers={"Retry-After": "17"})
    async with serving(backend={"a": BackendSettings(url=upstream.url)}, route=ROUTES) as gateway:
        answer = await gateway.ask()
        assert (answer.status, answer.headers["retry-after"]) == (429, "17")


async def test_unknown_fields_go_through(serving: Make, upstream: Upstream) -> None:
    async with serving(backend={"a": BackendSettings(url=upstream.url)}, route=ROUTES) as gateway:
        await gateway.ask(top_k=3, extra={"deep": [1, None]})
    assert upstream.requests[0].body == {**BODY, "top_k": 3, "extra": {"deep": [1, None]}}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_disk_withholds_the_answer(serving: Make, stream: bool) -> None:
    async with serving(backend=NULL, route=ROUTES) as gateway:
        gateway.spool.folder.rmdir()
        gateway.spool.folder.touch()
        answer = await gateway.ask(stream=stream)
        gateway.spool.folder.unlink()
        body = answer.body
    assert b"[DONE]" not in body
    assert b"disk_full" in body
    assert answer.status == (200 if stream else 507)


@pytest.mark.parametrize("full", [False, True])
async def test_the_events_of_a_response_are_numbered_to_the_error_that_ends_it(
    serving: Make, full: bool
) -> None:
    options = {"text": "one two three"} if full else {"text": "one two three", "cut_after": 2}
    backend = {"a": BackendSettings(kind="null", options=options)}
    async with serving(backend=backend, route=ROUTES) as gateway:
        if full:
            gateway.spool.folder.rmdir()
            gateway.spool.folder.touch()
        asked = {"model": "m", "input": "hi", "stream": True}
        answer = await gateway.call(asked, path="/v1/responses").done()
        if full:
            gateway.spool.folder.unlink()
    events = answer.events()
    assert events[-1]["type"] == "error"
    assert events[-1]["code"] == ("disk_full" if full else "stream_broken")
    assert len(events) > 3
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
