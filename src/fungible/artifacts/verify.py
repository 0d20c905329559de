"""Is an artifact still what its manifest says: digests, and parity measured again here."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fungible.artifacts.manifest import (
    REFERENCE,
    Manifest,
    Parity,
    content_digest,
    hash_file,
    load_manifest,
)
from fungible.artifacts.parity import compare, parity_tokens, variant_logits
from fungible.artifacts.program_facts import program_facts
from fungible.artifacts.target_parity import Score, TargetCheck, check_targets, drift
from fungible.contract.target import Target
from fungible.errors import ArtifactError, InputError

Progress = Callable[[str, int, int], None]


class VariantCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Parity as recorded and as measured now; `None` for the reference."""

    variant: str
    recorded: Parity | None
    measured: Parity | None
    problems: list[str]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found; `ok` when there is no problem anywhere."""

    artifact: str
    digest: str
    files: int
    problems: list[str]
    variants: list[VariantCheck]
    targets: list[TargetCheck] = []
    ok: bool


class GraphFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant's ONNX graph is made of.

    Attributes:
        other_domains: Operator domains beyond the ONNX standard; a portable graph has none.
    """

    opset: int
    operators: dict[str, int]
    other_domains: list[str]


def graph_facts(path: Path) -> GraphFacts:
    """Opset, operator counts and domains of an ONNX file; weights are not read.

    Raises:
        ArtifactError: The file is not an ONNX model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, ValueError, DecodeError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX model: {error}") from error
    domains = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    operators = Counter(node.op_type for node in model.graph.node)
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    return GraphFacts(
        opset=domains.get("ai.onnx", 0),
        operators=dict(sorted(operators.items())),
        other_domains=sorted((used | set(domains)) - {"ai.onnx"}),
    )


def verify_artifact(artifact: Path, progress: Progress | None = None) -> Verification:
    """Hash every file and measure every variant against the reference again.

    Parity is measured only when all digests match.

    Raises:
        ArtifactError: There is no readable manifest.
    """
    report = progress or (lambda _stage, _done, _total: None)
    manifest = load_manifest(artifact)
    problems = _check_files(artifact, manifest, report)
    checks = [] if problems else _check_variants(artifact, manifest, report)
    return Verification(
        artifact=manifest.name,
        digest=manifest.digest,
        files=len(manifest.all_files()),
        problems=problems,
        variants=checks,
        ok=not problems and not any(check.problems for check in checks),
    )


def verify_on_targets(
    artifact: Path,
    targets: Sequence[Target],
    variants: Sequence[str],
    *,
    score: Score,
    progress: Progress | None = None,
) -> Verification:
    """Hash every file, then measure variants on targets; see `check_targets`.

    Raises:
        ArtifactError: There is no readable manifest.
        InputError: The artifact has no such variant, or is an embedding model.
    """
    report = progress or (lambda _stage, _done, _total: None)
    manifest = load_manifest(artifact)
    if manifest.kind == "encoder":
        raise InputError(
            f"{manifest.name} is an embedding model: it has no logits to compare on targets",
            hint="leave --targets out: its embeddings in ONNX Runtime and XLA are compared",
        )
    problems = _check_files(artifact, manifest, report)
    checks = (
        []
        if problems
        else check_targets(artifact, manifest, targets, variants, score=score, report=report)
    )
    return Verification(
        artifact=manifest.name,
        digest=manifest.digest,
        files=len(manifest.all_files()),
        problems=problems,
        variants=[],
        targets=checks,
        ok=not problems and not any(check.problem for check in checks),
    )


def _check_files(artifact: Path, manifest: Manifest, report: Progress) -> list[str]:
    entries = manifest.all_files()
    named = content_digest(entries)
    problems = (
        [f"manifest.json: digest is {manifest.digest}, that of its files is {named}"]
        if named != manifest.digest
        else []
    )
    files = sorted(entries.items())
    for done, (path, entry) in enumerate(files):
        report("hash files", done, len(files))
        problem = _check_file(artifact, path, entry.sha256)
        problems += [problem] if problem else []
    return problems


def _check_file(artifact: Path, path: str, sha256: str) -> str:
    if not (artifact / path).is_file():
        return f"{path}: the file is missing"
    found = hash_file(artifact / path).sha256
    return "" if found == sha256 else f"{path}: SHA-256 is {found}, the manifest says {sha256}"


def _check_variants(artifact: Path, manifest: Manifest, report: Progress) -> list[VariantCheck]:
    if manifest.kind == "encoder":
        return [_check_encoder(artifact, manifest, name) for name in manifest.variants]
    tokens = parity_tokens(artifact, manifest.config)
    reference = variant_logits(artifact, REFERENCE, manifest.config, tokens)
    checks = []
    for done, (name, variant) in enumerate(manifest.variants.items()):
        report("measure parity", done, len(manifest.variants))
        # A variant for one runtime may use that runtime's own operators, and says so.
        problems = _foreign(artifact / name) if len(variant.runtimes) > 1 else []
        measured = None
        if variant.parity is not None:
            logits = variant_logits(artifact, name, manifest.config, tokens)
            measured = compare(reference, logits, tokens)
            moved = drift(variant.parity, measured)
            problems += [moved] if moved else []
        checks.append(
            VariantCheck(
                variant=name, recorded=variant.parity, measured=measured, problems=problems
            )
        )
    return checks


def _foreign(folder: Path) -> list[str]:
    """What a variant's graphs use that is not in the two standards."""
    domains = graph_facts(folder / "model.onnx").other_domains
    program = program_facts(folder)
    calls = program.other_calls if program else []
    problems = [f"operators outside the standard: {', '.join(domains)}"] if domains else []
    return problems + ([f"calls outside StableHLO: {', '.join(calls)}"] if calls else [])


def _check_encoder(artifact: Path, manifest: Manifest, name: str) -> VariantCheck:
    """An embedding model's graphs against each other."""
    from fungible.artifacts.encoder_parity import disagreement  # noqa: PLC0415  # JAX

    problems = _foreign(artifact / name)
    apart = disagreement(artifact, manifest, name)
    problems += [apart] if apart else []
    return VariantCheck(variant=name, recorded=None, measured=None, problems=problems)
