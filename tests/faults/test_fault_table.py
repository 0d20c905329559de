"""Each fault of the catalogue: what the client sees, and what the row says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults import catalogue, client, upstream
from support.fault_suite import HEDGED, RETRIED, SHADOWED, Suite

# Where it is not (`ok`, `provider_final`) for a whole answer and (`error`, `none`) for no answer.
ROWS = {
    "cut": ("interrupted", "estimated"),
    "reset": ("interrupted", "estimated"),
    "stall": ("interrupted", "estimated"),
    "malformed": ("interrupted", "estimated"),
    "error-event": ("interrupted", "estimated"),
    "no-done": ("interrupted", "provider_final"),
    "usage-never": ("ok", "none"),
}


BROKE_AFTER = {"cut": 3, "reset": 3, "stall": 3, "malformed": 2, "error-event": 3}


def told(name: str) -> tuple[int, int, int]:
    """Prompt, cached and visible tokens that the server reports."""
    script = catalogue.FAULTS[name].script
    counts: dict[str, Any] = script.get("counts") or {
        "prompt_tokens": 7,
        "completion_tokens": len(script.get("words", catalogue.WORDS)),
    }
    cached = counts.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    thought = counts.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    return counts["prompt_tokens"] - cached, cached, counts["completion_tokens"] - thought


@pytest.mark.parametrize("name", catalogue.FAULTS)
def test_what_the_client_sees_and_the_row_says(suite: Suite, name: str) -> None:
    fault = catalogue.FAULTS[name]
    seen, row = suite.last(name)
    verdict = client.judge(seen, fault, catalogue.words(name))
    assert verdict == fault.right, seen
    assert (row.kind, row.streamed, row.attempt_no) == ("serve", fault.stream, 0)
    usual = ("ok", "provider_final") if verdict == "whole" else ("error", "none")
    assert (row.status, row.usage_source) == ROWS.get(name, usual)
    if verdict == "error":
        assert row.error_code
        assert not seen.done
    leaves = (row.in_uncached, row.in_cache_read, row.out_visible)
    if row.usage_source == "provider_final":
        assert leaves == told(name)
    else:
        # What was seen of a broken answer is an estimate of its words, and of nothing else.
        seen_words = BROKE_AFTER[name] if row.usage_source == "estimated" else None
        assert leaves == (None, None, seen_words)


def test_a_stream_that_broke_says_so_in_the_formats_own_words(suite: Suite) -> None:
    seen, _ = suite.last("cut")
    last = json.loads(seen.events()[-1])
    assert last["error"]["message"]
    assert last["error"]["code"] == "stream_broken"
    assert seen.ended, "the HTTP message itself is complete"


def test_retry_after_reaches_the_client(suite: Suite) -> None:
    seen, row = suite.last("busy")
    assert seen.headers["retry-after"] == "7"
    assert (seen.status, row.http_status) == (429, 429)


@pytest.mark.parametrize("name", ["cut-first", "stall-first", "limited", "html"])
def test_before_the_first_word_another_backend_answers(suite: Suite, name: str) -> None:
    model = f"{name}-then-none"
    before = len(suite.rows(model))
    seen = suite.ask(model)
    assert client.judge(seen, catalogue.FAULTS["none"], catalogue.words("none")) == "whole"
    assert seen.headers["x-fungible-backend"] == "none"
    rows = suite.after(model, before + 2)[before:]
    assert [(row.backend, row.status, row.attempt_no) for row in rows] == [
        (name, "error", 0),
        ("none", "ok", 1),
    ]
    assert len({row.request_id for row in rows}) == 1


def test_a_retry_is_a_row(suite: Suite) -> None:
    seen = suite.ask(RETRIED)
    assert seen.status == 429
    rows = suite.after(RETRIED, 2)
    assert [(row.backend, row.role, row.status, row.attempt_no) for row in rows] == [
        ("limited", "first", "error", 0),
        ("limited", "retry", "error", 1),
    ]
    assert len({row.request_id for row in rows}) == 1


@pytest.mark.parametrize("model", HEDGED)
def test_a_hedge_and_who_lost_to_it_are_rows(suite: Suite, model: str) -> None:
    seen = suite.ask(model)
    assert client.judge(seen, catalogue.FAULTS["none"], catalogue.words("none")) == "whole"
    assert seen.headers["x-fungible-backend"] == "none"
    rows = suite.after(model, 2)
    found = {row.role: (row.backend, row.status, row.attempt_no, row.kind) for row in rows}
    assert found == {
        "first": (HEDGED[model], "cancelled", 0, "serve"),
        "hedge": ("none", "ok", 1, "serve"),
    }
    assert {row.request_id for row in rows} == {seen.headers["x-fungible-request-id"]}
    lost = next(row for row in rows if row.role == "first")
    assert (lost.in_uncached, lost.out_visible, lost.usage_source) == (None, None, "none")


SHADOW_ROWS = {
    "none": ("ok", "provider_final"),
    "cut": ("interrupted", "estimated"),
    "cut-first": ("error", "none"),
    "error-whole": ("error", "none"),
}


@pytest.mark.parametrize("model", SHADOWED)
def test_a_copy_is_a_row_and_its_failure_nobody_elses(suite: Suite, model: str) -> None:
    seen = suite.ask(model)
    assert client.judge(seen, catalogue.FAULTS["none"], catalogue.words("none")) == "whole"
    assert seen.headers["x-fungible-backend"] == "none"
    rows = suite.after(model, 2)
    served, copy = sorted(rows, key=lambda row: row.kind != "serve")
    assert (served.kind, served.role, served.status) == ("serve", "first", "ok")
    assert (copy.kind, copy.role, copy.backend) == ("shadow", "shadow", SHADOWED[model])
    assert (copy.status, copy.usage_source) == SHADOW_ROWS[SHADOWED[model]]
    assert served.request_id == seen.headers["x-fungible-request-id"]


def test_after_the_first_word_nobody_else_may_go_on(suite: Suite) -> None:
    seen = suite.ask("cut-then-none")
    assert client.judge(seen, catalogue.FAULTS["cut"], catalogue.words("cut")) == "error"
    assert [row.status for row in suite.after("cut-then-none", 1)] == ["interrupted"]


def test_the_server_runs_on_its_own() -> None:
    script = Path(upstream.__file__)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert set(said["models"]) == set(catalogue.FAULTS)
            seen = client.ask(f"{said['url']}/chat/completions", "cut", stream=True)
            fault = catalogue.FAULTS["cut"]
            assert client.judge(seen, fault, catalogue.words("cut")) == "silent cut"
        finally:
            process.terminate()
