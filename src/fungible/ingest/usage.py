"""Token counts of foreign records as leaves that partition the stated totals, or a refusal."""

from collections.abc import Mapping
from typing import Any

from fungible.contract.inference import Usage
from fungible.errors import InputError
from fungible.ingest.values import count, mapping

Leaves = dict[str, int | None]
NONE: Leaves = {}


def partition(
    *,
    prompt: int | None,
    completion: int | None,
    read: int | None = None,
    written: int | None = None,
    reasoning: int | None = None,
    total: int | None = None,
) -> Leaves:
    """Leaves from totals of input and output and their details.

    Details are part of the totals (OpenAI, OpenTelemetry, OpenInference), unless a stated
    grand total proves that they come beside them (Gemini's thoughts, Anthropic's cache).
    Where there are no totals, nothing is known, and the leaves are empty.

    Raises:
        InputError: They do not add up either way.
    """
    if prompt is None and completion is None:
        return NONE
    cached, thought = (read or 0) + (written or 0), reasoning or 0
    more = total - (prompt or 0) - (completion or 0) if total else 0
    if prompt is None or completion is None:
        more = 0
    beside_in, beside_out = _beside(more, cached, thought)
    if more and not beside_in and not beside_out:
        raise InputError(
            f"{prompt} tokens of input and {completion} of output do not add up to the stated"
            f" total of {total}"
        )
    fresh = prompt
    if prompt is not None and not beside_in:
        fresh = prompt - (read or 0) - (written or 0)
        if fresh < 0:
            raise InputError(
                f"{read or 0} tokens read from a cache and {written or 0} written to it are more"
                f" than the {prompt} of input that should include them"
            )
    visible = completion
    if completion is not None and not beside_out:
        visible = completion - (reasoning or 0)
        if visible < 0:
            raise InputError(
                f"{reasoning} tokens of reasoning are more than the {completion} of output that"
                " should include them"
            )
    return {
        "in_uncached": fresh,
        "in_cache_read": None if prompt is None else read or 0,
        "in_cache_write": None if prompt is None else written or 0,
        "out_visible": visible,
        "out_reasoning": None if completion is None else reasoning or 0,
    }


def _beside(more: int, cached: int, thought: int) -> tuple[bool, bool]:
    """Whether details of input, and of output, make up the `more` that the total has."""
    if more <= 0:
        return False, False
    if more == cached + thought:
        return cached > 0, thought > 0
    return more == cached, more == thought and more != cached


def openai_leaves(raw: object) -> Leaves:
    """From a `usage` of chat, completions, embeddings or responses; empty when there is none."""
    if not isinstance(raw, dict):
        return NONE
    said = "input_tokens" if "input_tokens" in raw else "prompt_tokens"
    into = mapping(raw.get("input_tokens_details") or raw.get("prompt_tokens_details"))
    out = mapping(raw.get("output_tokens_details") or raw.get("completion_tokens_details"))
    prompt = count(raw.get(said), said)
    answer = "output_tokens" if "output_tokens" in raw else "completion_tokens"
    completion = count(raw.get(answer), answer)
    if completion is None and prompt is not None and raw.get("total_tokens") == prompt:
        completion = 0  # embeddings have no output
    return partition(
        prompt=prompt,
        completion=completion,
        read=_of(into, "cached_tokens"),
        written=_of(into, "cache_write_tokens", "cache_creation_tokens"),
        reasoning=_of(out, "reasoning_tokens"),
        total=count(raw.get("total_tokens"), "total_tokens"),
    )


def anthropic_leaves(raw: object) -> Leaves:
    """From an Anthropic `usage`, whose `input_tokens` are beside what caches read and wrote."""
    if not isinstance(raw, dict):
        return NONE
    fresh = count(raw.get("input_tokens"), "input_tokens")
    out = count(raw.get("output_tokens"), "output_tokens")
    if fresh is None or out is None:
        return NONE
    written = _of(raw, "cache_creation_input_tokens")
    stated = [
        value
        for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        if (value := _of(mapping(raw.get("cache_creation")), name)) is not None
    ]
    if written is not None and stated and sum(stated) != written:
        raise InputError(
            f"cache_creation adds up to {sum(stated)}, cache_creation_input_tokens is {written}"
        )
    thought = _of(mapping(raw.get("output_tokens_details")), "thinking_tokens")
    inside = partition(prompt=fresh, completion=out, reasoning=thought)
    return inside | {
        "in_cache_read": _of(raw, "cache_read_input_tokens") or 0,
        "in_cache_write": written if written is not None else sum(stated),
    }


def usage_leaves(usage: Usage) -> Leaves:
    """The leaves that an observer of a stream found."""
    return {
        "in_uncached": usage.in_uncached,
        "in_cache_read": usage.in_cache_read,
        "in_cache_write": usage.in_cache_write,
        "out_visible": usage.out_visible,
        "out_reasoning": usage.out_reasoning,
    }


def _of(raw: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        if (found := count(raw.get(name), name)) is not None:
            return found
    return None
