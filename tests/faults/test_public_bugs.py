"""Bugs that users of other gateways reported in public, replayed: each must not happen here."""

import json

import pytest

from faults import catalogue, client
from support.fault_suite import Suite

TEXT = "".join(catalogue.WORDS)


def whole(seen: client.Seen, name: str) -> bool:
    return client.judge(seen, catalogue.FAULTS[name], catalogue.words(name)) == "whole"


def usages(seen: client.Seen) -> list[object]:
    events = [json.loads(data) for data in seen.events() if data != "[DONE]"]
    return [event["usage"] for event in events if event.get("usage")]


def test_litellm_17364_a_client_that_leaves_is_recorded(suite: Suite) -> None:
    """BerriAI/litellm#17364: streams cancelled by their client left no spend at all."""
    seen, row = suite.last("slow", leave_after=200)
    assert not seen.done
    assert row.status == "cancelled"
    assert row.output_chars, "what was consumed before it left"


def test_bifrost_3709_a_cancelled_stream_is_not_one_token(suite: Suite) -> None:
    """maximhq/bifrost#3709: a cancelled stream of 806 deltas was logged as 1 completion token."""
    _, row = suite.last("slow", leave_after=1000)
    assert row.out_visible is None or row.out_visible > 1
    assert row.usage_source != "provider_final"
    assert row.output_chars
    assert row.output_chars > len(" word")


def test_tensorzero_7054_a_row_outlives_its_handler(suite: Suite) -> None:
    """tensorzero/tensorzero#7054: a disconnect cancelled the handler before it wrote its row."""
    before = len(suite.rows("slow"))
    for _ in range(5):
        suite.ask("slow", leave_after=1)
    rows = suite.after("slow", before + 5)[before:]
    assert [row.status for row in rows] == ["cancelled"] * 5


def test_llmgateway_724j_leaving_before_the_end_is_no_free_answer(suite: Suite) -> None:
    """GHSA-724j-f2pf-phf7 (theopenco/llmgateway): aborting a stream bypassed billing."""
    _, row = suite.last("usage-each-slow", leave_after=1200)
    assert row.status == "cancelled"
    assert row.usage_source == "provider_partial"
    assert row.in_uncached == 7


def test_tensorzero_475_a_stream_that_broke_is_recorded(suite: Suite) -> None:
    """tensorzero/tensorzero#475: partial, failed streams were discarded, so never logged."""
    _, row = suite.last("error-event")
    assert row.status == "interrupted"
    assert row.output_chars == len("".join(catalogue.WORDS[:3]))


@pytest.mark.parametrize("name", ["cut", "reset"])
def test_bifrost_5546_dead_upstream_is_not_a_clean_done(suite: Suite, name: str) -> None:
    """maximhq/bifrost#5546: an upstream that died mid-stream became a clean `[DONE]`."""
    seen, row = suite.last(name)
    assert not seen.done
    assert "error" in json.loads(seen.events()[-1])
    assert row.status == "interrupted"


def test_bifrost_7034_silence_times_out(suite: Suite) -> None:
    """maximhq/bifrost#7034: the stream timeout never fired on an upstream that went silent."""
    seen, row = suite.last("stall")
    assert not seen.hung
    assert row.error_code == "upstream_idle_timeout"


def test_portkey_1797_a_cut_is_an_error(suite: Suite) -> None:
    """Portkey-AI/gateway#1797: a mid-stream cut ended as 200, with no error nor `[DONE]`."""
    seen, _ = suite.last("cut")
    assert client.judge(seen, catalogue.FAULTS["cut"], catalogue.words("cut")) == "error"


def test_portkey_267_a_lost_connection_is_not_200(suite: Suite) -> None:
    """Portkey-AI/gateway#267: a connection lost inside a whole body was answered with 200."""
    seen, row = suite.last("cut-whole")
    assert seen.status == 502
    assert row.status == "error"


def test_portkey_1259_usage_of_streams_is_known_unasked(suite: Suite) -> None:
    """Portkey-AI/gateway#1259, #858, #691: usage was missing in streams."""
    seen, row = suite.last("none")
    assert row.usage_source == "provider_final"
    assert usages(seen) == [], "the client did not ask for it"
    asked, _ = suite.last("none", stream_options={"include_usage": True})
    assert len(usages(asked)) == 1


@pytest.mark.parametrize("name", ["stall-first", "cut-first"])
def test_litellm_40404_a_stalled_stream_falls_back(suite: Suite, name: str) -> None:
    """BerriAI/litellm#40404: no fallback when a stream stalled or was cut."""
    assert whole(suite.ask(f"{name}-then-none"), "none")


def test_litellm_39294_each_backend_is_charged_with_its_own_attempt(suite: Suite) -> None:
    """BerriAI/litellm#39294: after a fallback, cost was booked 35 % low or 109 % high."""
    before = len(suite.rows("limited-then-none"))
    suite.ask("limited-then-none")
    failed, answered = suite.after("limited-then-none", before + 2)[before:]
    assert (failed.backend, failed.out_visible, failed.usage_source) == ("limited", None, "none")
    assert (answered.backend, answered.out_visible) == ("none", len(catalogue.WORDS))


@pytest.mark.parametrize("name", ["cached", "cached-whole"])
def test_litellm_36083_cached_tokens_are_a_leaf_of_their_own(suite: Suite, name: str) -> None:
    """BerriAI/litellm#36083, #36168: `cached_tokens` was dropped, so prompts cost four times."""
    _, row = suite.last(name)
    assert (row.in_uncached, row.in_cache_read) == (20, 80)


def test_litellm_10567_reasoning_tokens_are_counted_once(suite: Suite) -> None:
    """BerriAI/litellm#10567, #30488: reasoning tokens were left out, or counted twice."""
    _, row = suite.last("cached")
    assert (row.out_visible, row.out_reasoning) == (10, 30)


def test_litellm_37992_no_tokens_is_not_unknown(suite: Suite) -> None:
    """BerriAI/litellm#37992: a usage of 0 was taken for a missing one."""
    _, row = suite.last("zero")
    assert (row.out_visible, row.usage_source) == (0, "provider_final")


def test_envoy_2236_usage_sent_twice_counts_once(suite: Suite) -> None:
    """envoyproxy/ai-gateway#2236, #2239, #2292: tokens of a stream were counted twice."""
    _, row = suite.last("usage-twice")
    assert (row.in_uncached, row.out_visible) == (7, len(catalogue.WORDS))


def test_envoy_2184_usage_of_an_incomplete_answer_counts(suite: Suite) -> None:
    """envoyproxy/ai-gateway#2184: usage was lost when an answer was incomplete."""
    _, row = suite.last("incomplete")
    assert (row.finish_reason, row.usage_source) == ("length", "provider_final")


def test_envoy_2470_data_without_space(suite: Suite) -> None:
    """envoyproxy/ai-gateway#2470: `data:` without a space after it was not understood."""
    seen, row = suite.last("no-space")
    assert whole(seen, "no-space")
    assert row.output_chars == len(TEXT)


@pytest.mark.parametrize("name", ["gzip", "gzip-whole"])
def test_envoy_2554_no_stale_content_encoding(suite: Suite, name: str) -> None:
    """envoyproxy/ai-gateway#2554: `content-encoding` stayed on a body that was decoded."""
    seen, _ = suite.last(name)
    assert "content-encoding" not in seen.headers
    assert whole(seen, name)


def test_envoy_2549_a_ping_is_not_a_word(suite: Suite) -> None:
    """envoyproxy/ai-gateway#2549: keep-alive events became empty chunks of text."""
    seen, row = suite.last("ping")
    assert whole(seen, "ping")
    assert row.output_chars == len(TEXT)
