"""Whether a backend reads text as its route's reference does, told by the prompt tokens it counts.

Equal text must cost equal tokens. The difference between two one-turn prompts is the tokenizer's;
what is common to them, and what more turns add, is the chat template's.
"""

from fungible.conformance.asker import Asker
from fungible.conformance.finding import HONOURED, Told, degraded, untested
from fungible.errors import UpstreamError

_TEXTS = (
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "Füße, naïve café, ÅNGSTRÖM",
    "東京タワーは333メートルです。",
    "🙂🙃 family: 👩‍👩‍👧‍👦",
    "def f(x):\n\treturn x**2  # 1234567890\n\n\n",
    "   spaces   and\ttabs  ",
)
_TALKS: tuple[list[dict[str, str]], ...] = (
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
)


async def tokenizer(asker: Asker) -> Told:
    """The same texts cost as many tokens more than the shortest as they do at the reference."""
    if not asker.reference:
        return untested("it is the reference itself")
    try:
        theirs = [await _cost(asker, text, asker.reference) for text in _TEXTS]
    except UpstreamError as error:
        return untested(f"the reference does not answer: {error.message}")
    ours = [await _cost(asker, text, "") for text in _TEXTS]
    if None in ours or None in theirs:
        return untested("no token counts to compare")
    off = [
        text
        for text, one, other in zip(_TEXTS[1:], ours[1:], theirs[1:], strict=True)
        if (one or 0) - (ours[0] or 0) != (other or 0) - (theirs[0] or 0)
    ]
    if off:
        return degraded(f"{len(off)} of {len(_TEXTS) - 1} texts cost other tokens, as {off[0]!r}")
    return HONOURED


async def chat_template(asker: Asker) -> Told:
    """Whole conversations cost the same tokens as at the reference."""
    if not asker.reference:
        return untested("it is the reference itself")
    talks = [[{"role": "user", "content": "a"}], *_TALKS]
    try:
        theirs = [await _talk(asker, talk, asker.reference) for talk in talks]
    except UpstreamError as error:
        return untested(f"the reference does not answer: {error.message}")
    ours = [await _talk(asker, talk, "") for talk in talks]
    if None in ours or None in theirs:
        return untested("no token counts to compare")
    if ours != theirs:
        return degraded(f"conversations cost {ours} tokens, at the reference {theirs}")
    return HONOURED


async def _cost(asker: Asker, text: str, of: str) -> int | None:
    return await _talk(asker, [{"role": "user", "content": text}], of)


async def _talk(asker: Asker, messages: list[dict[str, str]], of: str) -> int | None:
    row = (await asker.ask(messages=messages, max_tokens=1, of=of)).row
    if row.in_uncached is None:
        return None
    return row.in_uncached + (row.in_cache_read or 0) + (row.in_cache_write or 0)
