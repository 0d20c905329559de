"""`fungible artifact inspect`: what an artifact is made of, without reading its weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fungible.artifacts.manifest import Manifest, load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.cli.artifact_options import home_option, json_option, needs_build
from fungible.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from fungible.artifacts.program_facts import ProgramFacts
    from fungible.artifacts.verify import GraphFacts


@click.command()
@click.argument("ref")
@home_option
@json_option
def inspect(*, ref: str, home: Path, as_json: bool) -> None:
    """What REF (a path, sha256:…, or a name) is made of. Reads no weights."""
    path = ArtifactStore(home / "artifacts").resolve(ref)
    manifest = load_manifest(path)
    with needs_build():
        from fungible.artifacts.program_facts import program_facts  # noqa: PLC0415  # heavy
        from fungible.artifacts.verify import graph_facts  # noqa: PLC0415  # heavy
    graphs = {name: graph_facts(path / name / "model.onnx") for name in manifest.variants}
    programs = {name: program_facts(path / name) for name in manifest.variants}
    if as_json:
        print_json(
            {"path": str(path), "manifest": manifest, "graphs": graphs, "programs": programs}
        )
        return
    _print_model(path, manifest)
    print_variants(manifest)
    for name in manifest.variants:
        _print_graphs(name, graphs[name], programs[name])
    for window in dict.fromkeys(one.compatibility for one in programs.values() if one):
        click.echo(f"\ncompatibility: {window}")
    click.echo()
    files = sorted(manifest.all_files().items())
    rows = [[entry.sha256, str(entry.size), file] for file, entry in files]
    print_table(["sha256", "bytes", "file"], rows, right=["bytes"])


def _print_model(path: Path, manifest: Manifest) -> None:
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


def _print_graphs(name: str, graph: "GraphFacts", program: "ProgramFacts | None") -> None:
    others = ", ".join(graph.other_domains) or "none"
    click.echo(f"\n{name}: ONNX opset {graph.opset}, non-standard domains: {others}")
    click.echo(f"  {_counts(graph.operators)}")
    if program is None:
        click.echo(f"{name}: no StableHLO program")
        return
    calls = _counts(program.custom_calls) or "none"
    click.echo(
        f"{name}: StableHLO {program.stablehlo_version}, by jax {program.jax_version} (calling "
        f"convention {program.calling_convention}), for {', '.join(program.platforms)}, "
        f"custom calls: {calls}, outside StableHLO: {', '.join(program.other_calls) or 'none'}"
    )
    click.echo(f"  {_counts(program.operators)}")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{kind.removeprefix('stablehlo.')} {n}" for kind, n in counted.items())


def print_variants(manifest: Manifest) -> None:
    """The table of variants: size, parity, weights and who runs them."""
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
