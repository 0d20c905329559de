"""What a backend answered, item by item: the harness-neutral input of the gate.

Any harness can write the file form, one JSON object per line: `item_id` and `score` are
needed; `cluster_id`, `output_hash`, `tokens` (their number), `finish_reason` and `logprobs`
(the `logprobs.content` list of an OpenAI answer) are used where present.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from fungible.contract.openai import TokenLogprob
from fungible.errors import ConfigError


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """One item answered by one backend.

    Attributes:
        score: In [0, 1]; `None` when the request failed, which is not the same as wrong.
        text: The answer; it stays in memory and is never recorded.
        tokens: Emitted tokens with their alternatives, empty when the backend gives none.
        output_hash: First 16 hex digits of the SHA-256 of the text.
        output_tokens: How many tokens were emitted, as the backend counts them.
        error: Why there is no answer, or empty.
    """

    item_id: str
    cluster: str = ""
    score: float | None
    text: str = ""
    tokens: list[TokenLogprob] = []
    output_hash: str = ""
    output_tokens: int | None = None
    finish_reason: str = ""
    attempt_id: str = ""
    error: str = ""


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    item_id: str
    score: float | None
    cluster_id: str = ""
    output_hash: str = ""
    tokens: int | None = None
    finish_reason: str = ""
    logprobs: list[TokenLogprob] = []


def read_results(path: Path) -> list[ItemResult]:
    """Results from a JSON Lines file.

    Raises:
        ConfigError: The file or a line is malformed; names file, line and field.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"results {path}: cannot be read: {error.strerror}") from error
    results: dict[str, ItemResult] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        result = _result(line, f"{path}:{number}")
        if result.item_id in results:
            raise ConfigError(f"{path}:{number}: item_id {result.item_id!r} occurs twice")
        results[result.item_id] = result
    if not results:
        raise ConfigError(f"{path}: no results in it")
    return list(results.values())


def write_results(path: Path, results: Iterable[ItemResult]) -> None:
    """Results as JSON Lines, without the answers' text (tokens appear only in `logprobs`)."""
    lines = [
        msgspec.json.encode(
            _Line(
                item_id=result.item_id,
                score=result.score,
                cluster_id=result.cluster,
                output_hash=result.output_hash,
                tokens=result.output_tokens,
                finish_reason=result.finish_reason,
                logprobs=result.tokens,
            )
        )
        for result in results
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def pair(
    reference: Sequence[ItemResult], candidate: Sequence[ItemResult]
) -> list[tuple[ItemResult, ItemResult]]:
    """Items that both sides answered, in the reference's order."""
    answered = {result.item_id: result for result in candidate if result.score is not None}
    return [
        (result, answered[result.item_id])
        for result in reference
        if result.score is not None and result.item_id in answered
    ]


def _result(line: bytes, at: str) -> ItemResult:
    try:
        row = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{at}: {error}", hint="each line needs item_id and score (a number in [0, 1], or null)"
        ) from error
    if row.score is not None and not 0 <= row.score <= 1:
        raise ConfigError(f"{at}: score is {row.score}; it must be in [0, 1]")
    return ItemResult(
        item_id=row.item_id,
        cluster=row.cluster_id,
        score=row.score,
        tokens=row.logprobs,
        output_hash=row.output_hash,
        output_tokens=row.tokens,
        finish_reason=row.finish_reason,
    )
