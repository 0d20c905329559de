"""Every attempt leaves one true row, and the row is on disk before the answer ends."""

import asyncio

import msgspec
import pytest

from fungible.config import BackendSettings, GatewaySettings, RouteSettings
from fungible.contract.sse import DONE
from fungible.errors import (
    QueueFullError,
    StreamBrokenError,
    UnavailableError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamRejectedError,
    UpstreamSetupError,
    UpstreamTimeoutError,
)
from fungible.routing.budget import BURST
from support.dispatching import Make, request, route
from support.upstream import Script, Upstream


async def test_the_row_is_on_disk_before_the_end_of_a_stream(dispatching: Make) -> None:
    async with dispatching(a={"text": "one two"}) as setup:
        answer = await setup.dispatcher.dispatch(request(), route=route(), route_version=7)
        async for chunk in answer.chunks():
            found = setup.rows()
            assert bool(found) == (chunk == DONE)
        (row,) = found
        assert row == answer.attempt
        assert (row.status, row.http_status, row.finish_reason) == ("ok", 200, "stop")
        assert (row.in_uncached, row.out_visible) == (2, 2)
        assert (row.usage_source, row.output_chars) == ("provider_final", 7)
        assert (row.route_version, row.backend, row.backend_kind) == (7, "a", "null")
        assert row.first_token_ns is not None
        assert row.started_ns <= row.first_token_ns <= row.ended_ns


async def test_the_row_is_on_disk_before_a_whole_answer(dispatching: Make) -> None:
    async with dispatching(a={}) as setup:
        answer = await setup.dispatcher.dispatch(request(stream=False), route=route())
        assert setup.rows() == []
        chunks = answer.chunks()
        body = await anext(chunks)
        assert [row.status for row in setup.rows()] == ["ok"]
        assert msgspec.json.decode(body)["usage"]["completion_tokens"] == 2
        assert [chunk async for chunk in chunks] == []


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_always_counted_but_shown_only_when_asked(
    dispatching: Make, upstream: Upstream, asked: bool
) -> None:
    options = {"stream_options": {"include_usage": True, "x": 1}} if asked else {}
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        body = b"".join(await setup.ask(request(**options), route=route()))
        assert (b"prompt_tokens" in body) == asked
        assert [row.in_uncached for row in setup.rows()] == [7]
    sent = upstream.requests[0].body
    assert sent["stream_options"] == {"include_usage": True} | ({"x": 1} if asked else {})


async def test_unknown_usage_is_unknown_and_not_zero(dispatching: Make, upstream: Upstream) -> None:
    upstream.default = Script(usage="never")
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        await setup.ask(request(), route=route())
        await setup.ask(request(stream=False), route=route())
        for row in setup.rows():
            assert (row.in_uncached, row.out_visible, row.usage_source) == (None, None, "none")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        Script(status=500),
        Script(status=429),
        Script(reset_after=0),
        Script(cut_after=0),
        Script(error_after=0),
        Script(malformed_after=0),
        Script(body=b"<html>", content_type="text/html"),
    ],
    ids=["500", "429", "reset", "cut", "error event", "malformed", "html"],
)
async def test_failures_before_the_first_token_go_unseen(
    dispatching: Make, upstream: Upstream, fault: Script, stream: bool
) -> None:
    if not stream and fault.body is None and fault.status == 200 and fault.reset_after is None:
        fault = Script(body=b'{"error": {"message": "x"}}')
    upstream.default = fault
    bad = BackendSettings(url=upstream.url)
    async with dispatching(a=bad, b={"text": "rescued"}) as setup:
        body = b"".join(await setup.ask(request(stream=stream), route=route("b")))
        assert b"rescued" in body
        assert b"error" not in body
        found = setup.rows()
    assert [(row.backend, row.attempt_no, row.status) for row in found] == [
        ("a", 0, "error"),
        ("a", 1, "error"),
        ("b", 2, "ok"),
    ]
    assert {row.request_id for row in found} == {"req_1"}
    assert len({row.attempt_id for row in found}) == 3
    assert all(row.error_code for row in found[:2])
    assert found[0].out_visible is None


async def test_a_retry_alone_can_save_it(dispatching: Make, upstream: Upstream) -> None:
    upstream.next = [Script(status=503)]
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        await setup.ask(request(), route=route())
        assert [row.status for row in setup.rows()] == ["error", "ok"]


@pytest.mark.parametrize("fault", [Script(cut_after=1), Script(reset_after=1)])
async def test_after_a_token_nothing_is_tried_again(
    dispatching: Make, upstream: Upstream, fault: Script
) -> None:
    upstream.default = fault
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        answer = await setup.dispatcher.dispatch(request(), route=route("b"))
        chunks = answer.chunks()
        assert "Grüße".encode() in await anext(chunks)
        with pytest.raises(StreamBrokenError):
            await anext(chunks)
        assert answer.attempt is not None
        assert setup.rows() == [answer.attempt]
        assert (answer.attempt.status, answer.attempt.error_code) == (
            "interrupted",
            "stream_broken",
        )
        assert answer.attempt.output_chars == 5
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("fault", [Script(error_after=1), Script(malformed_after=1)])
async def test_a_bad_event_after_a_token_is_not_shown(
    dispatching: Make, upstream: Upstream, fault: Script
) -> None:
    upstream.default = fault
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        chunks = (await setup.dispatcher.dispatch(request(), route=route())).chunks()
        await anext(chunks)
        with pytest.raises(StreamBrokenError):
            await anext(chunks)
        assert [row.status for row in setup.rows()] == ["interrupted"]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_tried_once(
    dispatching: Make, upstream: Upstream, status: int
) -> None:
    upstream.default = Script(status=status)
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        with pytest.raises(UpstreamRejectedError, match="scripted") as caught:
            await setup.dispatcher.dispatch(request(), route=route("b"))
        assert caught.value.status == status
        assert [(row.status, row.http_status) for row in setup.rows()] == [("error", status)]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_our_own_mistake_there_is_not_repeated_there(
    dispatching: Make, upstream: Upstream, status: int
) -> None:
    upstream.default = Script(status=status)
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        await setup.ask(request(), route=route("b"))
        tried = [(row.backend, row.http_status) for row in setup.rows()]
        assert tried == [("a", status), ("b", 200)]
        with pytest.raises(UpstreamSetupError) as caught:
            await setup.dispatcher.dispatch(request(), route=route())
        assert caught.value.status == 502
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(("wait", "tries"), [("0", 2), ("17", 1)])
async def test_a_backend_that_asks_for_a_rest_gets_it(
    dispatching: Make, upstream: Upstream, wait: str, tries: int
) -> None:
    upstream.default = Script(status=429, headers={"Retry-After": wait})
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        with pytest.raises(UpstreamBusyError) as caught:
            await setup.dispatcher.dispatch(request(), route=route())
        assert caught.value.retry_after_s == float(wait)
    assert len(upstream.requests) == tries


async def test_when_all_fail_the_last_failure_is_told(dispatching: Make) -> None:
    always = {"fail_rate": 1.0}
    async with dispatching(a=always | {"fail_status": 500}, b=always) as setup:
        with pytest.raises(UpstreamBusyError, match="b answered 503"):
            await setup.dispatcher.dispatch(request(), route=route("b"))
        assert [row.backend for row in setup.rows()] == ["a", "a", "b"]


async def test_one_backend_means_that_one_once(dispatching: Make) -> None:
    async with dispatching(a={"fail_rate": 1.0}, b={}) as setup:
        with pytest.raises(UpstreamBusyError):
            await setup.dispatcher.dispatch(request(), backend="a")
        assert len(setup.rows()) == 1
        with pytest.raises(UnavailableError, match="'nowhere'"):
            await setup.dispatcher.dispatch(request(), backend="nowhere")
        with pytest.raises(UnavailableError, match="route or a backend"):
            await setup.dispatcher.dispatch(request())


@pytest.mark.parametrize("stream", [True, False])
async def test_no_answer_in_time_is_a_timeout(
    dispatching: Make, upstream: Upstream, stream: bool
) -> None:
    upstream.default = Script(wait_s=30)
    limits = GatewaySettings(
        first_token_timeout_s=0.1 if stream else 60, total_timeout_s=60 if stream else 0.1
    )
    async with dispatching(limits=limits, a=BackendSettings(url=upstream.url), b={}) as setup:
        await setup.ask(request(stream=stream), route=route("b", retries=0))
        found = setup.rows()
        assert [(row.backend, row.error_code) for row in found] == [
            ("a", "upstream_first_token_timeout" if stream else "upstream_total_timeout"),
            ("b", ""),
        ]
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)


async def test_an_answer_that_takes_too_long_in_all_is_interrupted(dispatching: Make) -> None:
    limits = GatewaySettings(total_timeout_s=0.2)
    async with dispatching(limits=limits, a={"tokens": 1000, "itl_ms": 20}) as setup:
        with pytest.raises(UpstreamTimeoutError):
            await setup.ask(request(), route=route())
        assert [row.status for row in setup.rows()] == ["interrupted"]


async def test_a_failing_backend_is_left_alone_and_the_log_says_so_once(
    dispatching: Make, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.default = Script(status=500)
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        for _ in range(20):
            await setup.ask(request(), route=route("b"))
        assert len(upstream.requests) == 5
        assert caplog.text.count("a is at rest") == 1
        with pytest.raises(UpstreamConnectError):
            await setup.dispatcher.dispatch(request(), route=route())
        assert len(upstream.requests) == 6, "the only backend is tried even so"


async def test_retries_stop_when_their_budget_is_spent(dispatching: Make) -> None:
    none_but_the_burst = {"m": RouteSettings(reference="a", retry_budget=0.0, retry_min_per_s=0.0)}
    async with dispatching(routes=none_but_the_burst, a={"fail_rate": 0.3}) as setup:
        failed = 0
        for _ in range(100):
            try:
                await setup.ask(request(), route=route())
            except UpstreamBusyError:
                failed += 1
        repeats = sum(row.attempt_no > 0 for row in setup.rows())
    assert repeats == BURST
    assert failed >= 15


async def test_a_backend_that_asks_for_a_rest_is_left_alone_by_everybody(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.next = [Script(status=429, headers={"Retry-After": "30"})]
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        for _ in range(5):
            await setup.ask(request(), route=route("b"))
        assert [row.backend for row in setup.rows()] == ["a"] + ["b"] * 5


async def test_a_full_queue_goes_to_the_fallback_and_says_nothing_about_the_backend(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    tight = BackendSettings(url=upstream.url, max_concurrency=1, max_queue=0)
    async with dispatching(a=tight, b={}) as setup:
        first = asyncio.create_task(setup.ask(request(), route=route()))
        await upstream.arrived(1)
        for _ in range(8):
            await setup.ask(request(), route=route("b"))
        full = [row for row in setup.rows() if row.error_code == "backend_queue_full"]
        assert len(full) == 8, "no retry, and the breaker stays closed"
        with pytest.raises(QueueFullError) as caught:
            await setup.dispatcher.dispatch(request(), route=route())
        assert caught.value.retry_after_s == 1.0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert len(upstream.requests) == 1
