"""What is honoured, refused or quietly ignored is told apart by asking."""

import pytest

from fungible.config import BackendSettings
from fungible.conformance.finding import Finding
from fungible.conformance.suite import examine
from fungible.errors import UpstreamConnectError
from support.dispatching import Make
from support.upstream import Script, Upstream


def outcomes(findings: list[Finding]) -> dict[str, str]:
    return {one.name: one.outcome for one in findings}


async def test_what_is_ignored_is_not_called_honoured(dispatching: Make) -> None:
    async with dispatching(a={"text": "one two three"}) as setup:
        found = outcomes(await examine(setup.dispatcher, "a", "m"))
        rows = setup.rows()
    assert found["whole answer"] == found["streamed answer"] == found["max_tokens"] == "honoured"
    assert found["stop"] == found["logprobs"] == found["tools"] == "ignored"
    assert found["JSON schema"] == found["n"] == "ignored"
    assert found["bad values refused"] == "degraded"
    assert found["tokenizer agrees"] == "untested"
    assert {row.kind for row in rows} == {"eval"}
    assert len({row.run_id for row in rows}) == 1
    assert len(rows) > len(found)


async def test_a_backend_that_reports_no_usage(dispatching: Make) -> None:
    async with dispatching(a={"usage": False}) as setup:
        found = outcomes(await examine(setup.dispatcher, "a", "m"))
    assert found["token counts"] == found["token counts in streams"] == "ignored"


async def test_a_refusal_is_told_in_the_backends_words(
    dispatching: Make, upstream: Upstream
) -> None:
    # The opening question is answered; everything after it is refused.
    upstream.next, upstream.default = [Script()], Script(status=400)
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        findings = await examine(setup.dispatcher, "a", "m")
    refused = [one for one in findings if one.outcome == "refused"]
    assert all("scripted" in one.detail for one in refused)
    found = outcomes(findings)
    assert found.pop("bad values refused") == "honoured"
    assert found.pop("tokenizer agrees") == found.pop("chat template agrees") == "untested"
    assert set(found.values()) == {"refused"}


async def test_a_broken_stream_is_a_failure(dispatching: Make) -> None:
    async with dispatching(a={"cut_after": 1}) as setup:
        findings = await examine(setup.dispatcher, "a", "m")
    failed = [one for one in findings if one.outcome == "failed"]
    assert [one.name for one in failed if one.required] == ["streamed answer"]


async def test_a_backend_that_does_not_answer_is_an_error(dispatching: Make) -> None:
    async with dispatching(a={"fail_rate": 1.0, "fail_status": 500}) as setup:
        with pytest.raises(UpstreamConnectError):
            await examine(setup.dispatcher, "a", "m")
        assert [row.status for row in setup.rows()] == ["error"]


async def test_questions_are_ones_that_any_server_understands(
    dispatching: Make, upstream: Upstream
) -> None:
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        await examine(setup.dispatcher, "a", "m")
    meant = [seen.body["messages"] for seen in upstream.requests]
    odd = [turns for turns in meant if not turns or isinstance(turns, str)]
    assert odd == ["hello", []]  # what a server should refuse
    assert {turns[0]["role"] for turns in meant if turns not in odd} == {"user"}
