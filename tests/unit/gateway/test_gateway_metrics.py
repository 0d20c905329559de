"""What `/metrics` and `/health` say of a gateway that answers, fails, and is asked by strangers."""

import asyncio
import re
import socket

import pytest

from fungible.config import BackendSettings, GatewaySettings, KeySettings, RouteSettings
from fungible.contract.exposition import labelled
from fungible.errors import UnavailableError
from fungible.gateway.metrics import Family, page
from support.gateway import Make
from support.servers import free_port
from support.upstream import Script, Upstream

ROUTES = {"m": RouteSettings(reference="a")}
NULL = {"a": BackendSettings(kind="null")}
_LINE = re.compile(
    r'([a-z_:][a-z0-9_:]*)(\{([a-z_]+="(\\.|[^"\\\n])*"(,|(?=\})))*\})? (\d+(\.\d+)?(e-?\d+)?)'
)


def on(port: int) -> GatewaySettings:
    return GatewaySettings(metrics_port=port)


async def scrape(port: int, request: bytes = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer.decode()


def samples(text: str) -> dict[str, float]:
    """Every sample by name and labels; the text must be well-formed, each family in one piece."""
    head, _, body = text.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200"), head
    assert body.endswith("\n")
    found: dict[str, float] = {}
    declared: set[str] = set()
    family = ""
    for line in body.splitlines():
        if line.startswith("# TYPE "):
            family = line.split(" ")[2]
            assert family not in declared
            declared.add(family)
        elif not line.startswith("# HELP "):
            match = _LINE.fullmatch(line)
            assert match, line
            assert (
                match[1].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
                == family
                or match[1] == family
            )
            name = line.rpartition(" ")[0]
            assert name not in found
            found[name] = float(line.rpartition(" ")[2])
    return found


def one(found: dict[str, float], name: str, **labels: object) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = [
        value
        for key, value in found.items()
        if key.startswith(f"{name}{{") and all(each in key for each in wanted)
    ]
    assert len(values) == 1, (name, labels, values)
    return values[0]


async def test_requests_attempts_tokens_and_times_are_counted(serving: Make) -> None:
    port = free_port()
    async with serving(backend=NULL, route=ROUTES, gateway=on(port)) as gateway:
        for stream in (False, True, True):
            await gateway.ask(stream=stream)
        await gateway.ask(temperature="hot")
        await gateway.call(path="/v1/nothing").done()
        found = samples(await scrape(port))
    assert one(found, "fungible_requests_total", endpoint="chat/completions", code=200) == 3
    assert one(found, "fungible_requests_total", endpoint="chat/completions", code=400) == 1
    assert one(found, "fungible_requests_total", endpoint="", code=404) == 1
    served = {"model": "m", "backend": "a", "kind": "serve", "role": "first", "status": "ok"}
    assert one(found, "fungible_attempts_total", **served) == 3
    assert one(found, "fungible_tokens_total", leaf="out_visible") == 6
    assert one(found, "gen_ai_server_time_to_first_token_seconds_count", backend="a") == 2
    assert one(found, "gen_ai_server_request_duration_seconds_count", backend="a") == 3
    assert one(found, "gen_ai_server_request_duration_seconds_bucket", le="+Inf") == 3
    assert one(found, "fungible_attempts_in_flight", backend="a") == 0
    assert one(found, "fungible_breaker_state", backend="a", state="closed") == 1
    assert found["fungible_spool_bytes"] > 0


async def test_nothing_of_a_client_is_in_it(serving: Make) -> None:
    port = free_port()
    hashed = "f35ba4ac4d0ba5d8d0d2a0ab2b3f9c5a6c4f1be7ec4d4a3b5f8b5c3a1d2e4f60"
    named = {"secretkey": KeySettings(hash=hashed, owner="secretowner", customer="secretcustomer")}
    async with serving(backend=NULL, route=ROUTES, key=named, gateway=on(port)) as gateway:
        answer = await gateway.ask("secretbearer", user="secretuser", model="secretmodel")
        assert answer.status == 401
        text = await scrape(port)
    assert "secret" not in text
    async with serving(backend=NULL, route=ROUTES, gateway=on(port)) as gateway:
        await gateway.ask(model="secretmodel")
        await gateway.ask(user="secretuser", metadata={"customer": "secretcustomer"})
        await gateway.call(path="/secretpath").done()
        text = await scrape(port)
    assert "secret" not in text


async def test_a_breaker_that_opens_is_seen(serving: Make, upstream: Upstream) -> None:
    upstream.default = Script(status=500)
    port = free_port()
    backend = {"a": BackendSettings(url=upstream.url), "b": BackendSettings(kind="null")}
    async with serving(backend=backend, route=ROUTES, gateway=on(port)) as gateway:
        for _ in range(5):
            await gateway.ask()
        found = samples(await scrape(port))
        health = await gateway.call(path="/health", get=True).done()
    assert one(found, "fungible_breaker_state", backend="a", state="open") == 1
    assert one(found, "fungible_breaker_state", backend="b", state="closed") == 1
    assert one(found, "fungible_breaker_trips_total", backend="a") == 1
    assert one(found, "fungible_attempts_total", backend="a", role="first", status="error") >= 1
    # No names: whoever has no key learns only how many.
    assert health.status == 200
    assert health.json()["status"] == "degraded"
    assert health.json()["breakers"] == {"open": 1, "closed": 1}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
        (b"\r\n\r\n", "404"),
    ],
)
async def test_the_port_has_nothing_else(serving: Make, request_bytes: bytes, status: str) -> None:
    port = free_port()
    async with serving(backend=NULL, route=ROUTES, gateway=on(port)) as gateway:
        answer = await scrape(port, request_bytes)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        if request_bytes.startswith(b"HEAD"):
            assert answer.endswith("\r\n\r\n")
        assert await scrape(port, b"x" * 100_000) == ""
        assert (await gateway.call(path="/metrics", get=True).done()).status == 404


async def test_a_port_that_is_taken_is_named(serving: Make) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"metrics_port: cannot listen on .*:{port}"):
            async with serving(backend=NULL, route=ROUTES, gateway=on(port)):
                pass


def test_families_of_several_workers_are_one() -> None:
    def made(worker: int) -> list[Family]:
        line = f'n{{worker="{worker}"}} 1'
        return [Family(name="n", kind="counter", help="N.", samples=[line])]

    text = page([*made(0), *made(1), Family(name="", kind="", help="", samples=[])]).decode()
    assert text == '# HELP n N.\n# TYPE n counter\nn{worker="0"} 1\nn{worker="1"} 1\n'


def test_the_labels_of_a_page_are_escaped() -> None:
    assert labelled(a='x"y\\z\n') == 'a="x\\"y\\\\z\\n"'
