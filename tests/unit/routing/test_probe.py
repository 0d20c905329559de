"""What is honoured, refused or quietly ignored is told apart by asking."""

import msgspec
import pytest

from fungible.config import BackendSettings
from fungible.errors import UpstreamConnectError
from fungible.routing.probe import Finding, probe
from support.dispatching import Make
from support.upstream import Script, Upstream


def outcomes(findings: list[Finding]) -> dict[str, str]:
    return {one.name: one.outcome for one in findings}


async def test_what_is_ignored_is_not_called_honoured(dispatching: Make) -> None:
    async with dispatching(a={"text": "one two three"}) as setup:
        found = outcomes(await probe(setup.dispatcher, "a", "m"))
        rows = setup.rows()
    assert found["whole answer"] == found["streamed answer"] == found["max_tokens"] == "honoured"
    assert found["stop"] == found["logprobs"] == found["bad values refused"] == "ignored"
    assert {row.kind for row in rows} == {"eval"}
    assert len({row.run_id for row in rows}) == 1
    assert len(rows) > len(found)


async def test_a_backend_that_reports_no_usage(dispatching: Make) -> None:
    async with dispatching(a={"usage": False}) as setup:
        found = outcomes(await probe(setup.dispatcher, "a", "m"))
    assert found["token counts"] == found["token counts in streams"] == "ignored"


async def test_a_refusal_is_told_in_the_backends_words(
    dispatching: Make, upstream: Upstream
) -> None:
    # The opening question is answered; everything after it is refused.
    upstream.next, upstream.default = [Script()], Script(status=400)
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        findings = await probe(setup.dispatcher, "a", "m")
    refused = [one for one in findings if one.outcome == "refused"]
    assert len(refused) == len(findings) - 1
    assert all("scripted" in one.detail for one in refused)
    assert outcomes(findings)["bad values refused"] == "honoured"


async def test_a_broken_stream_is_a_failure(dispatching: Make) -> None:
    async with dispatching(a={"cut_after": 1}) as setup:
        findings = await probe(setup.dispatcher, "a", "m")
    failed = [one for one in findings if one.outcome == "failed"]
    assert [one.name for one in failed if one.required] == ["streamed answer"]


async def test_a_backend_that_does_not_answer_is_an_error(dispatching: Make) -> None:
    async with dispatching(a={"fail_rate": 1.0, "fail_status": 500}) as setup:
        with pytest.raises(UpstreamConnectError):
            await probe(setup.dispatcher, "a", "m")
        assert [row.status for row in setup.rows()] == ["error"]


async def test_questions_are_ones_that_any_server_understands(
    dispatching: Make, upstream: Upstream
) -> None:
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        await probe(setup.dispatcher, "a", "m")
    for seen in upstream.requests:
        assert seen.body["messages"][0]["role"] == "user"
        assert msgspec.json.encode(seen.body)
