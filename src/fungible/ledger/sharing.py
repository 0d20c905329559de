"""How a window is shared: by engine steps, by token classes, or by time, whichever is known."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from fungible.ledger.costing import Busy, Window, share, split, touches
from fungible.ledger.fit import StepFit
from fungible.ledger.lines import Whose
from fungible.ledger.step_shares import EngineStep, attempt_of, parts_of

TIME, STEPS, EQUAL_STEPS, CLASS = "time", "steps", "steps_equal", "class"


class Active(Busy, frozen=True, kw_only=True):
    """An attempt as pricing sees it.

    Attributes:
        whose: Its dimensions; idle time that was reserved or kept free goes by the owner.
        class_fs: Its tokens, weighted by class, in 10^-15 s; `None` when a count or the
            backend's weights are unknown.
    """

    whose: Whose = Whose()
    class_fs: int | None = None


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """A window's cost in units: per attempt, of requests that are not ours, and of nobody.

    `fit` names the fits behind rule `steps`, as run/samples.
    """

    rule: str
    fit: str = ""
    attempts: dict[str, int]
    unattributed: int = 0
    idle: int


def share_window(
    window: Window,
    active: Sequence[Active],
    steps: Sequence[EngineStep],
    fits: Mapping[str, StepFit],
    known: Mapping[str, Active],
) -> Shared:
    """Share a window; the order of what is given does not matter.

    Args:
        window: What is shared.
        active: The attempts that touch it in time.
        steps: The steps that touch it.
        fits: By run.
        known: The attempts that steps may name, by id.
    """
    inside = [one for one in steps if one.start_ns < window.end_ns and one.end_ns > window.start_ns]
    there = {one.attempt_id: one for one in active if touches(window, one)}
    if inside:
        return _by_steps(window, there, inside, fits, known)
    by_time = share(window, there.values())
    weights = {name: _inside_fs(window, there[name]) for name in sorted(there)}
    known_weights = [weight for weight in weights.values() if weight is not None]
    if not there or len(known_weights) < len(weights):
        return Shared(rule=TIME, attempts=by_time.attempts, idle=by_time.idle)
    units = split(window.units - by_time.idle, known_weights)
    return Shared(rule=CLASS, attempts=dict(zip(weights, units, strict=True)), idle=by_time.idle)


def _by_steps(
    window: Window,
    there: Mapping[str, Active],
    steps: Sequence[EngineStep],
    fits: Mapping[str, StepFit],
    known: Mapping[str, Active],
) -> Shared:
    parts, idle = parts_of(window, steps, fits)
    # Who was there and in no step is known to have used nothing.
    units: defaultdict[str, int] = defaultdict(int, dict.fromkeys(there, 0))
    names: dict[str, str] = {}
    unattributed = 0
    for part in parts:
        request = part.step.requests[part.place] if part.place >= 0 else ""
        if request not in names:
            names[request] = attempt_of(request, known)
        if names[request]:
            units[names[request]] += part.units
        else:
            unattributed += part.units
    used = {run: fits[run] for run in sorted({one.run for one in steps}) if run in fits}
    good = [f"{run}/{fit.samples}" for run, fit in used.items() if fit.accepted]
    return Shared(
        rule=STEPS if good else EQUAL_STEPS,
        fit=" ".join(good),
        attempts=dict(units),
        unattributed=unattributed,
        idle=idle,
    )


def _inside_fs(window: Window, one: Active) -> int | None:
    """The weight of the attempt's tokens, as far as its time lies in the window."""
    if one.class_fs is None or one.ended_ns <= one.started_ns:
        return one.class_fs
    inside = min(one.ended_ns, window.end_ns) - max(one.started_ns, window.start_ns)
    return one.class_fs * inside // (one.ended_ns - one.started_ns)
