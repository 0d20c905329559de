"""What a token of each class costs an engine, from scrapes of vLLM's metrics.

Between two scrapes the engine made some steps, ran some prompt tokens and generated some others;
when it was busy throughout, the time between is what they took. Least squares over such intervals
give the time of a step and of each kind of token.

Names as vLLM 0.28 has them. `vllm:prompt_tokens_total` counts whole prompts, also what came from
the prefix cache, so tokens run are `vllm:prompt_tokens_by_source_total{source="local_compute"}`
where there is one, else what is left without `vllm:prefix_cache_hits_total`. Our own engine counts
only what it ran.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from fungible.contract.steps import ClassWeightsEvent
from fungible.errors import InputError
from fungible.ledger.fit import LEAST_R2, StepFit, fit_stretches

LEAST_INTERVALS = 10
_SAMPLE = re.compile(
    r"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?\s+([^\s]+)(?:\s+(-?[0-9]+))?\s*"
)  # name, labels, value, milliseconds
_MOMENT = re.compile(r"#\s*scraped\s+([0-9]+(?:\.[0-9]+)?)\s*")
_STEPS = "vllm:iteration_tokens_total_count"
_PROMPT, _GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
_COMPUTED = 'vllm:prompt_tokens_by_source_total{source="local_compute"}'
_HITS = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits")
_RUNNING = "vllm:num_requests_running"
_OURS = "fungible:step_log_dropped_total"


class Scrape(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's counters at one moment, summed over its labels."""

    at_ns: int
    steps: int
    prompt: int
    generated: int
    running: int


def read_scrapes(text: str, where: str) -> list[Scrape]:
    """Every scrape of a file, oldest first.

    Each begins with a comment `# scraped SECONDS` (Unix time); a file without any is one scrape
    whose samples carry timestamps.

    Raises:
        InputError: A moment or one of the counters is missing; names the file and line.
    """
    found: list[Scrape] = []
    lines: list[str] = []
    moment, began = None, 1
    for number, line in enumerate(text.splitlines(), 1):
        if match := _MOMENT.fullmatch(line):
            if moment is not None or any(one.strip() for one in lines):
                found.append(_scrape(lines, moment, f"{where}:{began}"))
            moment, began, lines = round(float(match[1]) * 1e9), number, []
        else:
            lines.append(line)
    found.append(_scrape(lines, moment, f"{where}:{began}"))
    return sorted(found, key=lambda one: one.at_ns)


def _scrape(lines: Iterable[str], moment: int | None, at: str) -> Scrape:
    values: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        if line.startswith("#") or not (match := _SAMPLE.fullmatch(line)):
            continue
        name, labels, value, stamp = match.groups()
        if not name.startswith(("vllm:", "fungible:")):
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        values[name] += number
        if name == "vllm:prompt_tokens_by_source_total" and 'source="local_compute"' in labels:
            values[_COMPUTED] += number
        if stamp and moment is None:
            moment = int(stamp) * 1_000_000
    if moment is None:
        raise InputError(
            f"{at}: nothing says when this was scraped",
            hint="put a line `# scraped SECONDS` (Unix time) before each scrape",
        )
    for name in (_STEPS, _PROMPT, _GENERATED):
        if name not in values:
            raise InputError(f"{at}: no sample of {name}", hint="is it vLLM's /metrics?")
    return Scrape(
        at_ns=moment,
        steps=int(values[_STEPS]),
        prompt=_computed(values),
        generated=int(values[_GENERATED]),
        running=int(values[_RUNNING]),
    )


def _computed(values: defaultdict[str, float]) -> int:
    if _COMPUTED in values:
        return int(values[_COMPUTED])
    hits = next((values[name] for name in _HITS if name in values), 0.0)
    return int(values[_PROMPT] - (0.0 if _OURS in values else hits))


def weigh_classes(scrapes: Sequence[Scrape], backend: str, source: str) -> ClassWeightsEvent:
    """Weights from at least ten intervals in which the engine was busy at both ends.

    A step's own time goes to the tokens generated, each of which takes part in one: `w_out` is
    `β + t0·steps/generated`, `w_in` is `α`. Tokens from the cache weigh nothing here: the metrics
    do not say what attention read.

    Raises:
        InputError: There are too few, or they do not explain the time between them.
    """
    stretches = [
        (
            after.at_ns - before.at_ns,
            after.steps - before.steps,
            after.prompt - before.prompt,
            after.generated - before.generated,
            0,
        )
        for before, after in pairwise(sorted(scrapes, key=lambda one: one.at_ns))
        if before.running and after.running
    ]
    # A counter that fell belongs to an engine that started again.
    usable = [one for one in stretches if one[0] > 0 and one[1] > 0 and min(one) >= 0]
    if len(usable) < LEAST_INTERVALS:
        raise InputError(
            f"{source}: {len(usable)} intervals in which the engine was busy; {LEAST_INTERVALS}"
            " are needed",
            hint="scrape every few seconds while requests are waiting all the time",
        )
    fit = fit_stretches(usable)
    assert fit is not None  # noqa: S101  # there are rows
    _check_fit(fit, source)
    steps, generated = sum(one[1] for one in usable), sum(one[3] for one in usable)
    of_steps = fit.step_fs * steps // generated if generated else 0
    return ClassWeightsEvent(
        backend=backend,
        in_uncached=fit.prefill_fs,
        in_cache_read=0,
        out=fit.decode_fs + of_steps,
        source=source,
        r2=fit.r2,
        samples=fit.samples,
        at_ns=max(one.at_ns for one in scrapes),
    )


def _check_fit(fit: StepFit, source: str) -> None:
    if fit.r2 < LEAST_R2:
        raise InputError(
            f"{source}: steps and tokens explain too little of the time (R² {fit.r2:.2f}, below"
            f" {LEAST_R2})",
            hint="vary the mix of long prompts and long answers, and keep the engine busy",
        )
    if not fit.prefill_fs and not fit.decode_fs and not fit.step_fs:
        raise InputError(f"{source}: no kind of token takes any time")
