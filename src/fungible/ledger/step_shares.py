"""What each request had of the engine steps in a window: its Shapley value, in closed form.

A step's cost is a fixed part, which whoever is in the step causes together, and parts that each
request causes alone. The Shapley value of such a game is the own part and an equal share of the
fixed one: `g = α·prefill + β·decode + δ·kv + step / |batch|` (Shapley, 1953; the fixed part is
the airport game of Littlechild and Owen, 1973, with runways of one length). The fit is not exact,
so `g` divides the time that the step really took.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec

from fungible.ledger.costing import HOUR_NS, Window, held_ns, split, units_of
from fungible.ledger.fit import StepFit

UNATTRIBUTED = ""


class EngineStep(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `engine_steps`; the lists are parallel."""

    run: str
    step: int
    start_ns: int
    duration_ns: int
    requests: list[str]
    prefill: list[int]
    decode: list[int]
    kv: list[int]

    @property
    def end_ns(self) -> int:
        """When it was over."""
        return self.start_ns + self.duration_ns


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One request's part of one step, as far as the step lies in the window.

    Attributes:
        place: The request's in the step, -1 for a step that served nobody.
        units: Its cost.
        weight: Out of `whole`, of the `held_ns` that the step had of the window.
    """

    step: EngineStep
    place: int
    units: int
    weight: int
    whole: int
    held_ns: Fraction


def parts_of(
    window: Window, steps: Sequence[EngineStep], fits: Mapping[str, StepFit]
) -> tuple[list[Part], int]:
    """A window's cost by step and request, and what is left of it as idle.

    Parts and idle add up to the window's units. A step that served nobody has one part, at
    place -1. Where steps overlap (several engines of one backend), each instant is shared
    equally by the steps that run then. A step's units are what the cost of the busy time grows
    by with it, so later steps never move a digit of earlier ones.

    Args:
        window: What is shared.
        steps: In any order, each once; those outside the window have no part.
        fits: By run.
    """
    ordered = sorted(steps, key=lambda one: (one.start_ns, one.run, one.step))
    inside = {
        at: (max(one.start_ns, window.start_ns), min(one.end_ns, window.end_ns))
        for at, one in enumerate(ordered)
        if one.start_ns < window.end_ns and one.end_ns > window.start_ns
    }
    held, _ = held_ns(inside)
    rate = units_of(window.price.price)
    parts: list[Part] = []
    busy, before = Fraction(0), 0
    for at in inside:
        busy += held[at]
        after = min((2 * rate * busy + HOUR_NS) // (2 * HOUR_NS), window.units)
        parts += _parts_of_step(ordered[at], fits, after - before, held[at])
        before = after
    return parts, window.units - before


def _parts_of_step(
    step: EngineStep, fits: Mapping[str, StepFit], units: int, held: Fraction
) -> list[Part]:
    if not step.requests:
        return [Part(step=step, place=-1, units=units, weight=1, whole=1, held_ns=held)]
    weights = step_weights(step, fits.get(step.run))
    whole = sum(weights)
    return [
        Part(step=step, place=place, units=part, weight=weight, whole=whole, held_ns=held)
        for place, (part, weight) in enumerate(zip(split(units, weights), weights, strict=True))
    ]


def step_weights(step: EngineStep, fit: StepFit | None) -> list[int]:
    """In which proportion a step's requests share it; equal ones without an accepted fit."""
    size = len(step.requests)
    if fit is None or not fit.accepted:
        return [1] * size
    weights = [
        size * (fit.prefill_fs * prefill + fit.decode_fs * decode + fit.kv_fs * kv) + fit.step_fs
        for prefill, decode, kv in zip(step.prefill, step.decode, step.kv, strict=True)
    ]
    return weights if any(weights) else [1] * size


def attempt_of(request: str, attempts: Mapping[str, object]) -> str:
    """The attempt that an engine's request belongs to: its id, or `ID-N` for answer N of it."""
    if request in attempts:
        return request
    name, _, index = request.rpartition("-")
    return name if name in attempts and index.isascii() and index.isdigit() else UNATTRIBUTED
