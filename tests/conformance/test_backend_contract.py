"""Every kind of backend keeps the same promises, whichever package brings it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from fungible.backends.base import Backend, Reply
from fungible.backends.registry import build_backend, kinds
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UnavailableError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamSetupError,
    UpstreamTimeoutError,
)
from support.forms import ChatForm
from support.places import PLACES
from support.replies import parts_of
from support.upstream import Script, Upstream

TESTED = ("null", *PLACES)


class Bench:
    """One kind, and how to make it behave: `backend` maps a fault to a started backend."""

    def __init__(self, kind: str, upstream: Upstream) -> None:
        self.kind = kind
        self.upstream = upstream
        self.form = PLACES[kind].form if kind in PLACES else ChatForm()
        self.open: list[Backend] = []

    async def backend(
        self, *, cut_after: int | None = None, status: int = 200, usage: bool = True
    ) -> Backend:
        if self.kind == "null":
            options: dict[str, object] = {"text": "Grüße aus Köln", "usage": usage}
            options |= {"fail_rate": float(status != 200), "fail_status": status}
            options |= {} if cut_after is None else {"cut_after": cut_after}
            settings = BackendSettings(kind="null", options=options)
        else:
            told = "asked" if usage else "never"
            self.upstream.default = Script(cut_after=cut_after, status=status, usage=told)
            settings = PLACES[self.kind].settings(self.upstream.url.removesuffix("/v1"))
        backend = build_backend("b", settings)
        await backend.start()
        self.open.append(backend)
        return backend

    def ask(self, *, stream: bool = False, usage: bool = False) -> InferenceRequest:
        return InferenceRequest(
            request_id="req_1",
            model="m",
            body=self.form.body(stream=stream, usage=usage),
            stream=stream,
            endpoint=self.form.endpoint,
        )


@pytest.fixture(params=TESTED)
async def bench(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    place = PLACES.get(request.param)
    for name, value in (place.environment if place else {}).items():
        monkeypatch.setenv(name, value)
    async with place.upstream() if place else Upstream() as upstream:
        bench = Bench(request.param, upstream)
        yield bench
        for backend in bench.open:
            await backend.close()
        assert not upstream.violations


async def read(reply: Reply) -> list[bytes]:
    try:
        return [part async for part in parts_of(reply)]
    finally:
        await reply.close()


def test_every_installed_kind_is_tested_here() -> None:
    tested = {name.partition(",")[0] for name in TESTED}
    assert set(kinds()) == tested, "add the new kind to this suite"


async def test_a_whole_answer_comes_once(bench: Bench) -> None:
    reply = await (await bench.backend()).send(bench.ask())
    assert (reply.status, reply.content_type) == (200, "application/json")
    chunks = await read(reply)
    assert len(chunks) == 1
    answer = msgspec.json.decode(chunks[0])
    assert bench.form.text(answer) == "Grüße aus Köln"
    assert bench.form.count(answer) == 3


async def test_a_stream_is_whole_events_up_to_the_formats_last(bench: Bench) -> None:
    reply = await (await bench.backend()).send(bench.ask(stream=True))
    assert reply.content_type == "text/event-stream"
    frames = await read(reply)
    assert bench.form.ended(frames)
    assert bench.form.stream_text(frames) == "Grüße aus Köln"
    assert all(frame.endswith(b"\n\n") for frame in frames)


@pytest.mark.parametrize("wanted", [True, False])
async def test_stream_usage_comes_when_it_was_asked_for(bench: Bench, wanted: bool) -> None:
    backend = await bench.backend()
    frames = await read(await backend.send(bench.ask(stream=True, usage=wanted)))
    due = wanted or bench.form.always_counts
    assert bench.form.stream_counts(frames) == ([3] if due else [])


async def test_missing_usage_is_no_error(bench: Bench) -> None:
    backend = await bench.backend(usage=False)
    assert b"usage" not in (await read(await backend.send(bench.ask())))[0]
    assert bench.form.ended(await read(await backend.send(bench.ask(stream=True, usage=True))))


@pytest.mark.parametrize("words", [0, 1, 3])
async def test_a_cut_stream_shows_what_arrived_and_no_end(bench: Bench, words: int) -> None:
    if bench.kind == "null" and words == 3:
        words = 2  # it cuts before a word
    reply = await (await bench.backend(cut_after=words)).send(bench.ask(stream=True))
    frames = []
    # Either the adapter sees the cut, or the events end without the format's last one.
    with contextlib.suppress(StreamBrokenError):
        async for frame in parts_of(reply):
            frames.append(frame)
    assert bench.form.stream_text(frames) == "".join(("Grüße", " aus", " Köln")[:words])
    assert not frames or not bench.form.ended(frames)
    await reply.close()


@pytest.mark.parametrize(
    ("status", "error", "transient", "shown"),
    [
        (429, UpstreamBusyError, True, 429),
        (503, UpstreamBusyError, True, 429),
        (500, UpstreamConnectError, True, 502),
        (408, UpstreamTimeoutError, True, 504),
        (400, UpstreamRejectedError, False, 400),
        (404, UpstreamSetupError, True, 502),
        (422, UpstreamRejectedError, False, 422),
        (401, UpstreamSetupError, True, 502),
        (403, UpstreamSetupError, True, 502),
    ],
)
async def test_statuses_mean_the_same_everywhere(
    bench: Bench, status: int, error: type[UpstreamError], transient: bool, shown: int
) -> None:
    backend = await bench.backend(status=status)
    for stream in (False, True):
        with pytest.raises(UpstreamError, match=str(status)) as caught:
            await backend.send(bench.ask(stream=stream))
        assert type(caught.value) is error
        assert (caught.value.transient, caught.value.status) == (transient, shown)


async def test_closing_before_the_end_is_safe_and_repeatable(bench: Bench) -> None:
    backend = await bench.backend()
    reply = await backend.send(bench.ask(stream=True))
    async for _ in reply.chunks():
        break
    await reply.close()
    await reply.close()
    assert len(await read(await backend.send(bench.ask()))) == 1


async def test_many_answers_at_once_do_not_mix(bench: Bench) -> None:
    backend = await bench.backend()
    replies = await asyncio.gather(
        *(backend.send(bench.ask(stream=at % 2 == 0)) for at in range(20))
    )
    bodies = await asyncio.gather(*(read(reply) for reply in replies))
    assert [len(body) > 1 for body in bodies] == [at % 2 == 0 for at in range(20)]


async def test_it_is_healthy(bench: Bench) -> None:
    assert await (await bench.backend()).healthy()


def test_an_unknown_option_is_named(bench: Bench) -> None:
    settings = BackendSettings(
        kind=bench.kind.partition(",")[0], url="http://x/v1", options={"speling": 1}
    )
    with pytest.raises(ConfigError, match=r"backend\.b\.options.*speling"):
        build_backend("b", settings)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="telepathy") as caught:
        build_backend("b", BackendSettings(kind="telepathy"))
    assert "openai_http" in caught.value.hint


async def test_sending_before_start_is_one_clear_error() -> None:
    backend = build_backend("b", BackendSettings(url="http://127.0.0.1:9/v1"))
    body = ChatForm().body(stream=False, usage=False)
    with pytest.raises(UnavailableError, match="not started"):
        await backend.send(InferenceRequest(request_id="r", model="m", body=body))
