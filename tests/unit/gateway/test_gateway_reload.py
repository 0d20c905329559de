"""The gateway follows its configuration file, and no request notices."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fungible.config import load_config
from fungible.gateway.reload import ConfigWatcher
from support.gateway import BODY, GatewayInProcess


def text(says: str, *, extra: str = "") -> str:
    return f"""
[backend.a]
kind = "null"
options = {{ text = "{says}", itl_ms = 2 }}
[route.m]
reference = "a"
{extra}
"""


@contextlib.asynccontextmanager
async def following(
    path: Path, first: str
) -> AsyncIterator[tuple[GatewayInProcess, ConfigWatcher]]:
    path.write_text(first)  # noqa: ASYNC240  # a few bytes
    gateway = GatewayInProcess(load_config(path), path)
    watcher = gateway.app.configuration
    assert watcher is not None
    async with gateway.app.running():
        yield gateway, watcher


async def answer(gateway: GatewayInProcess, **fields: object) -> str:
    return str((await gateway.ask(**fields)).body)  # type: ignore[arg-type]


async def health(gateway: GatewayInProcess) -> dict[str, object]:
    return dict((await gateway.call(path="/health", get=True).done()).json())


async def test_backends_and_routes_change_while_requests_run(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"
    async with following(path, text("generation 0")) as (gateway, watcher):
        seen: Counter[int] = Counter()
        stop = False

        async def client(stream: bool) -> None:
            while not stop:
                call = await gateway.call({**BODY, "stream": stream}).done()
                seen[call.status] += 1
                assert b"generation" in call.body
                assert not stream or call.body.endswith(b"[DONE]\n\n")

        clients = [asyncio.create_task(client(at % 2 == 0)) for at in range(8)]
        for turn in range(1, 31):
            path.write_text(text(f"generation {turn}" + " x" * (turn % 5)))
            await watcher.refresh()
            await asyncio.sleep(0.02)
        stop = True
        await asyncio.gather(*clients)
        assert watcher.reloads == 30
        assert set(seen) == {200}
        assert seen[200] > 100
        assert "generation 30" in await answer(gateway)
        hashes = {row.config_hash for row in gateway.rows()}
        assert len(hashes) > 10
        assert gateway.rows()[-1].config_hash == (await health(gateway))["config_hash"]


async def test_an_answer_under_way_ends_on_the_old_backend(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"
    slow = text("old").replace("itl_ms = 2", "tokens = 30, itl_ms = 10")
    async with following(path, slow) as (gateway, watcher):
        call = gateway.call({**BODY, "stream": True})
        while not call.chunks:  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.01)
        path.write_text(text("new"))
        await watcher.refresh()
        assert "new" in await answer(gateway)
        done = await call.done()
        assert done.body.count(b"null") >= 30
        assert done.body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("[backend.a\n", "line 1"),
        (text("x", extra="retries = 'many'"), "route"),
        (text("x").replace('"a"', '"zz"'), "unknown backend 'zz'"),
        (text("x").replace('"null"', '"nowhere"'), "backend.a.kind"),
        (text("x", extra="[gateway]\nport = 9999"), "gateway changed"),
        (text("x", extra="[backend.b]\nkind = 'null'\noptions = {nonsense = 1}"), "nonsense"),
    ],
    ids=["not TOML", "wrong type", "unknown name", "unknown kind", "fixed", "adapter"],
)
async def test_a_bad_file_changes_nothing_and_says_why(
    tmp_path: Path, bad: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fungible.toml"
    async with following(path, text("good")) as (gateway, watcher):
        before = await health(gateway)
        path.write_text(bad)
        await watcher.refresh()
        assert says in watcher.problem
        assert says in caplog.text
        assert await health(gateway) == before | {"config": "kept"}
        assert "good" in await answer(gateway)
        path.write_text(text("better"))
        await watcher.refresh()
        assert watcher.problem == ""
        assert "better" in await answer(gateway)
        assert (await health(gateway))["config"] == "current"


async def test_keys_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"

    def keys(*names: str) -> str:
        return "\n".join(
            f'[key.{name}]\nhash = "{hashlib.sha256(name.encode()).hexdigest()}"' for name in names
        )

    async with following(path, text("hi", extra=keys("one"))) as (gateway, watcher):
        assert [(await gateway.ask(key)).status for key in ("one", "two")] == [200, 401]
        path.write_text(text("hi", extra=keys("two")))
        await watcher.refresh()
        assert [(await gateway.ask(key)).status for key in ("one", "two")] == [401, 200]
        path.write_text(text("hi"))
        await watcher.refresh()
        assert "all keys are gone" in watcher.problem
        assert [(await gateway.ask(key)).status for key in ("", "two")] == [401, 200]


async def test_a_new_route_is_served_beside_the_active_table(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"
    async with following(path, text("hi")) as (gateway, watcher):
        assert (await gateway.ask(model="n")).status == 404
        path.write_text(text("hi", extra='[route.n]\nreference = "a"'))
        await watcher.refresh()
        assert (await gateway.ask(model="n")).status == 200
        path.write_text(text("hi"))
        await watcher.refresh()
        assert (await gateway.ask(model="n")).status == 404


async def test_the_same_words_again_are_no_news(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"
    async with following(path, text("hi")) as (_, watcher):
        path.write_text(text("hi"))
        await watcher.refresh()
        path.write_text("# a comment\n" + text("hi"))
        await watcher.refresh()
        assert (watcher.reloads, watcher.problem) == (0, "")
