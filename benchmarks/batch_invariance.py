"""How many greedy answers change when requests share steps, or start from what slots hold.

Run `python benchmarks/batch_invariance.py ARTIFACT`. Every variant answers the same prompts three
times: one at a time, all at once, and all at once with prefix reuse; the prompts share a long
start. In `f32` no answer may change; for the others this measures how far they depart, by the
tokens before the first difference.
"""

import argparse
import asyncio
import json
import statistics
from pathlib import Path

import msgspec

from fungible.artifacts.manifest import Manifest, load_manifest
from fungible.contract.openai import ChatMessage
from fungible.contract.target import parse_target
from fungible.engine.generation import GenerationRequest
from fungible.engine.runtimes.registry import open_runtime
from fungible.engine.sampler import SamplingParams
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer

_TOPICS = ("rain", "a bridge", "bread", "a clock", "the moon", "salt", "a library", "glass")
# The start that all prompts share: long enough for whole pieces to be taken over.
_SHARED = (
    "You are the guide of a small museum of everyday things. Visitors are curious, of every age, "
    "and most of them have little time. Speak plainly, name the place and the century where you "
    "know them, and say so where you do not. Prefer what can be seen in the room to what must be "
    "imagined. Never invent a date, a name or a number. When a visitor asks about money, answer "
    "with what a loaf of bread cost in the same year, so that children can follow. When two "
    "stories about an object disagree, tell both and say which one the museum believes, and why. "
    "Do not speak of politics, of other museums, or of the weather. Answers are read aloud, so "
    "keep sentences short, avoid lists and brackets, and end with one question for the visitor. "
)
_FORMS = (
    "Explain in three sentences what {} is.",
    "Write a short story about {}.",
    "List five facts about {} and say why each of them matters to people in cities.",
    "Is {} older than writing? Answer with a reason.",
)


class Row(msgspec.Struct):
    """One variant; `changed_*` count answers, `agree_*` is the median share before a change."""

    target: str
    variant: str
    answers: int
    changed_batched: int
    agree_batched: float
    changed_reused: int
    agree_reused: float
    reused_tokens: int


async def answers(
    directory: Path, manifest: Manifest, variant: str, options: argparse.Namespace, *, mode: str
) -> tuple[list[list[int]], int]:
    """The tokens of each answer, and how many prompt tokens were taken over.

    `mode` is `alone`, `batched` or `reused`.
    """
    tokenizer = ChatTokenizer(directory, manifest.config)
    slots = 1 if mode == "alone" else options.slots
    runtime = open_runtime(
        directory,
        variant,
        parse_target(options.target),
        slots=slots,
        context=options.tokens + 512,
        threads=options.threads,
    )
    scheduler = Scheduler(
        runtime,
        tokenizer,
        eos_ids=frozenset(manifest.config.eos_ids),
        prefix_cache=mode == "reused",
    )
    scheduler.start()
    try:
        waiting = [scheduler.submit(one) for one in requests(tokenizer, options)]
        outputs = [(await each.outputs())[0] for each in waiting]
    finally:
        await scheduler.close()
    tokens = [[one.token for one in output.tokens] for output in outputs]
    return tokens, sum(output.cached_tokens for output in outputs)


def requests(tokenizer: ChatTokenizer, options: argparse.Namespace) -> list[GenerationRequest]:
    """The prompts, as requests that take the most likely tokens."""
    texts = [form.format(topic) for topic in _TOPICS for form in _FORMS][: options.prompts]
    return [
        GenerationRequest(
            prompt=tuple(
                tokenizer.encode(
                    tokenizer.render([ChatMessage(role="user", content=_SHARED + text)])
                )
            ),
            sampling=SamplingParams(temperature=0.0, top_logprobs=0),
            max_tokens=options.tokens,
        )
        for text in texts
    ]


def compare(alone: list[list[int]], other: list[list[int]]) -> tuple[int, float]:
    """Answers that differ, and the median share of an answer before it does (1 if none)."""
    shares = []
    for one, two in zip(alone, other, strict=True):
        if one != two:
            shares.append(_shared(one, two) / max(len(one), 1))
    return len(shares), statistics.median(shares) if shares else 1.0


def _shared(one: list[int], two: list[int]) -> int:
    """Tokens before the first difference."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(two)))


def measure(directory: Path, variant: str, options: argparse.Namespace) -> Row:
    """Answer three times and compare."""
    manifest = load_manifest(directory)

    def run(mode: str) -> tuple[list[list[int]], int]:
        return asyncio.run(answers(directory, manifest, variant, options, mode=mode))

    alone, _ = run("alone")
    batched, (shared, taken) = run("batched")[0], run("reused")
    return Row(
        options.target,
        variant,
        len(alone),
        *compare(alone, batched),
        *compare(alone, shared),
        taken,
    )


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--variants", help="comma-separated; default: all of the artifact")
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--prompts", type=int, default=32, help="at most 32")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    known = load_manifest(options.artifact).variants
    rows = []
    print("variant      answers  changed batched (agree)  changed reused (agree)  tokens reused")
    for variant in options.variants.split(",") if options.variants else known:
        row = measure(options.artifact, variant, options)
        rows.append(msgspec.to_builtins(row))
        print(
            f"{row.variant:12} {row.answers:7}  {row.changed_batched:15} ({row.agree_batched:.2f})"
            f"  {row.changed_reused:15} ({row.agree_reused:.2f})  {row.reused_tokens:13}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
