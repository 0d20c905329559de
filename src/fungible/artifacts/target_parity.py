"""Parity of an artifact's variants on the runtimes that a caller can open.

This package opens ONNX Runtime only, so whoever asks for another runtime brings the logits.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.manifest import REFERENCE, Manifest, Parity, Variant
from fungible.artifacts.parity import compare, parity_tokens, variant_logits
from fungible.contract.target import Target
from fungible.errors import FungibleError, InputError

Progress = Callable[[str, int, int], None]

# Two runtimes that both compute in float32 differ by the order of sums only.
F32_MAX_DIFF = 1e-3
F32_KL = 1e-6
# Engines round activations differently, so recorded parity is allowed to move a little.
KL_ABSOLUTE = 0.005
KL_RELATIVE = 0.25


class Score(Protocol):
    """Logits of a variant on a target."""

    def __call__(
        self, artifact: Path, variant: str, target: Target, tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Float32 logits `(S, vocab)` after each of the tokens `(S,)`.

        Raises:
            FungibleError: The target cannot run it here.
        """
        ...


class TargetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One variant on one target.

    Attributes:
        parity: Distance from the `f32` logits of ONNX Runtime; `None` if nothing was measured.
        tolerance: What is allowed, in words.
        problem: Why it is not ok; empty if it is.
        hint: What to do about it.
    """

    target: str
    variant: str
    parity: Parity | None
    tolerance: str
    problem: str = ""
    hint: str = ""


def check_targets(
    artifact: Path,
    manifest: Manifest,
    targets: Sequence[Target],
    variants: Sequence[str],
    *,
    score: Score,
    report: Progress,
) -> list[TargetCheck]:
    """Every variant on every target whose runtime can execute it.

    Args:
        artifact: Its directory.
        manifest: Its manifest.
        targets: Where to run.
        variants: Which ones; all of them if empty.
        score: Computes the logits.
        report: Called with (stage, done, total).

    Raises:
        InputError: The artifact has no such variant.
    """
    _require_known(manifest, variants)
    tokens = parity_tokens(artifact, manifest.config)
    reference = variant_logits(artifact, REFERENCE, manifest.config, tokens)
    pairs = [
        (target, name)
        for target in targets
        for name, variant in manifest.variants.items()
        if (not variants or name in variants) and target.runtime in variant.runtimes
    ]
    checks = []
    for done, (target, name) in enumerate(pairs):
        report("measure on targets", done, len(pairs))
        try:
            logits = score(artifact, name, target, tokens)
        except FungibleError as error:
            checks.append(_refused(target, name, manifest.variants[name], error))
        else:
            found = compare(reference, logits, tokens)
            checks.append(_measured(target, name, manifest.variants[name], found))
    ran = {check.target for check in checks}
    return checks + [_nothing(target) for target in targets if str(target) not in ran]


def _measured(target: Target, name: str, variant: Variant, found: Parity) -> TargetCheck:
    return TargetCheck(
        target=str(target),
        variant=name,
        parity=found,
        tolerance=_tolerance(variant),
        problem=_outside(variant, found),
    )


def _refused(target: Target, name: str, variant: Variant, error: FungibleError) -> TargetCheck:
    return TargetCheck(
        target=str(target),
        variant=name,
        parity=None,
        tolerance=_tolerance(variant),
        problem=error.message,
        hint=error.hint,
    )


def _require_known(manifest: Manifest, variants: Sequence[str]) -> None:
    unknown = [name for name in variants if name not in manifest.variants]
    if unknown:
        raise InputError(
            f"{manifest.name} has no variant {unknown[0]!r}",
            hint=f"it has: {', '.join(manifest.variants)}",
        )


def drift(recorded: Parity, measured: Parity) -> str:
    """Why the KL is not the recorded one; empty when it is within tolerance."""
    allowed = _allowed(recorded)
    if abs(measured.mean_kl - recorded.mean_kl) <= allowed:
        return ""
    return (
        f"mean KL is {measured.mean_kl:.4f}, the manifest says {recorded.mean_kl:.4f} "
        f"(allowed ±{allowed:.4f})"
    )


def _allowed(recorded: Parity) -> float:
    return KL_ABSOLUTE + KL_RELATIVE * recorded.mean_kl


def _tolerance(variant: Variant) -> str:
    if variant.parity is None:
        return f"max |Δ| < {F32_MAX_DIFF:g}, same top token, mean KL < {F32_KL:g}"
    return f"mean KL {variant.parity.mean_kl:.4f} ± {_allowed(variant.parity):.4f}"


def _outside(variant: Variant, measured: Parity) -> str:
    if variant.parity is not None:
        return drift(variant.parity, measured)
    near = measured.max_abs_diff < F32_MAX_DIFF and measured.mean_kl < F32_KL
    if near and measured.top1_agreement == 1:
        return ""
    return (
        f"max |Δ| {measured.max_abs_diff:.2e}, top token {measured.top1_agreement:.1%}, "
        f"mean KL {measured.mean_kl:.2e}: not {_tolerance(variant)}"
    )


def _nothing(target: Target) -> TargetCheck:
    return TargetCheck(
        target=str(target),
        variant="",
        parity=None,
        tolerance="",
        problem=f"no variant asked for runs on {target.runtime}",
        hint="see `fungible artifact inspect` for who runs which variant",
    )
