"""Each timeout has its own code, for the client and in the row, and a route can set its own."""

import asyncio
from typing import Any

import pytest

from fungible.config import BackendSettings, Config, GatewaySettings, RouteSettings
from fungible.config.check import check_config
from fungible.errors import ConfigError
from support.gateway import Make
from support.upstream import Script, Upstream

LONG = GatewaySettings(first_token_timeout_s=60, total_timeout_s=60, idle_timeout_s=60)
SHORT = GatewaySettings(first_token_timeout_s=0.05, total_timeout_s=0.1, idle_timeout_s=0.05)
STALL = Script(stall_after=1)
WAIT = Script(wait_s=30)


def route(**fields: Any) -> dict[str, RouteSettings]:
    return {"m": RouteSettings(reference="a", retries=0, **fields)}


@pytest.mark.parametrize("at", ["route", "gateway"])
@pytest.mark.parametrize(
    ("setting", "script", "stream", "code"),
    [
        ("first_token_timeout_s", WAIT, True, "upstream_first_token_timeout"),
        ("total_timeout_s", WAIT, True, "upstream_total_timeout"),
        ("total_timeout_s", WAIT, False, "upstream_total_timeout"),
        ("total_timeout_s", STALL, True, "upstream_total_timeout"),
        ("idle_timeout_s", STALL, True, "upstream_idle_timeout"),
    ],
)
async def test_what_ran_out_has_its_own_code(
    serving: Make,
    upstream: Upstream,
    at: str,
    setting: str,
    script: Script,
    stream: bool,
    code: str,
) -> None:
    upstream.default = script
    limits = {"first_token_timeout_s": 60.0, "total_timeout_s": 60.0, "idle_timeout_s": 60.0}
    limits[setting] = 0.15
    gateway_limits = LONG if at == "route" else GatewaySettings(**limits)
    async with serving(
        gateway=gateway_limits,
        backend={"a": BackendSettings(url=upstream.url)},
        route=route(**(limits if at == "route" else {})),
    ) as gateway:
        call = await gateway.ask(stream=stream)
        (row,) = gateway.rows()
        assert row.error_code == code
        assert f'"code":"{code}"'.encode() in call.body
        assert b"[DONE]" not in call.body
        begun = script is STALL
        assert (call.status, row.status) == ((200, "interrupted") if begun else (504, "error"))


async def test_the_connection_has_its_own_code(serving: Make) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)  # a greeting in TLS, never answered
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        options = {"connect_timeout_s": 0.1}
        backend = BackendSettings(url=f"https://127.0.0.1:{port}/v1", options=options)
        async with serving(backend={"a": backend}, route=route()) as gateway:
            call = await gateway.ask()
            assert call.status == 504
            assert call.json()["error"]["code"] == "upstream_connect_timeout"
            assert [row.error_code for row in gateway.rows()] == ["upstream_connect_timeout"]


async def test_a_route_may_be_slower_than_the_gateway_allows(
    serving: Make, upstream: Upstream
) -> None:
    upstream.default = Script(words=("a", "b", "c"), wait_s=0.2, word_s=0.1)
    async with serving(
        gateway=SHORT,
        backend={"a": BackendSettings(url=upstream.url)},
        route=route(first_token_timeout_s=30, total_timeout_s=30, idle_timeout_s=30),
    ) as gateway:
        assert (await gateway.ask(stream=True)).body.endswith(b"[DONE]\n\n")


async def test_events_that_keep_coming_are_no_silence(serving: Make, upstream: Upstream) -> None:
    upstream.default = Script(words=("a",) * 12, word_s=0.05)
    async with serving(
        backend={"a": BackendSettings(url=upstream.url)}, route=route(idle_timeout_s=0.4)
    ) as gateway:
        assert (await gateway.ask(stream=True)).body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("name", ["first_token_timeout_s", "total_timeout_s", "idle_timeout_s"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_timeout_that_cannot_be_is_refused(name: str, bad: float) -> None:
    config = Config(backend={"a": BackendSettings(kind="null")}, route=route(**{name: bad}))
    with pytest.raises(ConfigError, match=rf"route\.m\.{name} must be above 0"):
        check_config(config, "here")
    config = Config(gateway=GatewaySettings(**{name: bad}))
    with pytest.raises(ConfigError, match=rf"gateway\.{name} must be above 0"):
        check_config(config, "here")
