"""Answers as such: whole, streamed, of a limited length, repeatable, counted."""

from fungible.conformance.asker import Asker
from fungible.conformance.finding import HONOURED, Told, degraded, ignored, unless, untested


async def whole(asker: Asker) -> Told:
    """An answer with text in it."""
    return unless("" if (await asker.ask()).text.strip() else "the answer is empty")


async def streamed(asker: Asker) -> Told:
    """The same as a stream that ends as it should."""
    row = (await asker.ask(stream=True)).row
    return unless("" if row.output_chars and row.finish_reason else "no text, or no finish reason")


async def counts(asker: Asker) -> Told:
    """Token counts of a whole answer."""
    row = (await asker.ask()).row
    return unless("" if row.usage_source == "provider_final" else "no token counts")


async def counts_in_streams(asker: Asker) -> Told:
    """Token counts at the end of a stream, the same as without one."""
    row = (await asker.ask(stream=True)).row
    if row.usage_source != "provider_final":
        return ignored("no token counts at the end of a stream")
    other = (await asker.ask()).row
    if (row.in_uncached or 0) + (row.in_cache_read or 0) != (
        (other.in_uncached or 0) + (other.in_cache_read or 0)
    ):
        return degraded("a stream counts its prompt differently from a whole answer")
    return HONOURED


async def max_tokens(asker: Asker) -> Told:
    """One token where one is allowed, and a finish reason that says so."""
    row = (await asker.ask(max_tokens=1)).row
    count = (row.out_visible or 0) + (row.out_reasoning or 0)
    if count > 1:
        return ignored(f"{count} tokens where 1 was allowed")
    if row.finish_reason != "length":
        return degraded(f"finish_reason is {row.finish_reason!r}")
    return HONOURED


async def seed(asker: Asker) -> Told:
    """The same seed gives the same answer at temperature 1."""
    hashes = {(await asker.ask(temperature=1, seed=7)).row.output_hash for _ in range(3)}
    if hashes == {""}:
        return ignored("the answer is empty")
    if len(hashes) > 1:
        return ignored(f"the same seed gave {len(hashes)} answers")
    return HONOURED


async def stop(asker: Asker) -> Told:
    """A stop sequence ends the answer before it, in a stream too."""
    words = (await asker.ask()).text.split()
    if len(words) < 2:
        return untested("the answer is too short to tell")
    for stream in (False, True):
        answer = await asker.ask(stop=[words[1]], stream=stream)
        if not stream and words[1] in answer.text:
            return ignored(f"the answer holds the stop sequence {words[1]!r}")
        if answer.row.finish_reason != "stop":
            return degraded(f"finish_reason is {answer.row.finish_reason!r} after a stop sequence")
    return HONOURED


async def several(asker: Asker) -> Told:
    """`n` = 2 gives two answers."""
    choices = (await asker.ask(n=2)).body.get("choices") or []
    return unless("" if len(choices) == 2 else f"{len(choices)} answers where 2 were asked for")


async def logprobs(asker: Asker) -> Told:
    """Log-probabilities of each token, with two alternatives."""
    choice = (await asker.ask(logprobs=True, top_logprobs=2)).body["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if not tokens:
        return ignored("no log-probabilities")
    if any(float(token.get("logprob", 1)) > 1e-3 for token in tokens):
        return degraded("a log-probability is above 0")
    if any(len(token.get("top_logprobs") or []) != 2 for token in tokens):
        return degraded("not two alternatives for each token")
    return HONOURED
