"""An embedding model's checkpoint -> artifact: both graphs over one set of float32 weights."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fungible.artifacts.encoder_checkpoint import (
    EncoderCheckpoint,
    encoder_config_json,
    encoder_layout,
)
from fungible.artifacts.encoder_onnx import build_encoder_graph
from fungible.artifacts.encoder_parity import require_same
from fungible.artifacts.encoder_stablehlo import export_encoder
from fungible.artifacts.manifest import (
    DEFAULT_VARIANTS,
    REFERENCE,
    FileEntry,
    Manifest,
    Variant,
    content_digest,
    hash_file,
    write_manifest,
)
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.tensors import TensorWriter
from fungible.artifacts.variants import GRAPH, WEIGHTS, Progress
from fungible.errors import ArtifactError

RECIPE = 1
# Runtimes that `engine/runtimes` has an encoder for.
RUNTIMES = ("onnxruntime", "openvino", "xla")
_LIBRARIES = ("fungible", "jax", "numpy", "onnx", "onnxruntime", "tokenizers")


def build_encoder_artifact(
    source: str,
    directory: Path,
    store: ArtifactStore,
    variants: Sequence[str],
    report: Progress,
) -> Path:
    """Build `source` into `store`, or find it there; the artifact's directory.

    Args:
        source: As the user named it.
        directory: Where that is; `is_encoder` is true for it.
        store: Where the artifact goes; one build at a time per store.
        variants: `f32`, or the default, which for an encoder is `f32` alone.
        report: Called with (stage, done, total).

    Raises:
        ArtifactError: The checkpoint cannot be read, or the two graphs disagree; nothing is
            left behind.
        DiskError: The disk is full; nothing is left behind.
    """
    others = [name for name in variants if name != REFERENCE]
    if others and tuple(variants) != DEFAULT_VARIANTS:
        raise ArtifactError(
            f"{source}: variant {others[0]!r} is not built for embedding models",
            hint=f"they are built in {REFERENCE}",
        )
    checkpoint = EncoderCheckpoint(directory)
    report("hash the checkpoint", 0, 1)
    named = {str(path.relative_to(directory)): hash_file(path) for path in checkpoint.files}
    source_digest = content_digest(named)
    with store.locked():
        found = store.find(source_digest, RECIPE, (REFERENCE,))
        if found is not None:
            return found
        layout = encoder_layout(checkpoint.config, checkpoint.encoder)
        store.require_space(sum(spec.nbytes() for spec in layout.values()) + 16_000_000)
        with store.building() as building:
            files = _write_shared(checkpoint, building)
            variant = _write_variant(checkpoint, building, report)
            manifest = Manifest(
                name=checkpoint.name,
                digest=content_digest(files | variant.files),
                source=source,
                source_digest=source_digest,
                recipe=RECIPE,
                licence=checkpoint.licence,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                config=checkpoint.config,
                kind="encoder",
                encoder=checkpoint.encoder,
                files=files,
                variants={REFERENCE: variant},
                versions={name: version(name) for name in _LIBRARIES},
            )
            report("compare ONNX and StableHLO", 0, 1)
            require_same(building, manifest, REFERENCE)
            write_manifest(building, manifest)
            return store.adopt(building, manifest)


def _write_shared(checkpoint: EncoderCheckpoint, directory: Path) -> dict[str, FileEntry]:
    contents = {
        "config.json": encoder_config_json(checkpoint.config, checkpoint.encoder),
        "tokenizer.json": checkpoint.tokenizer_json,
    }
    return {name: _write(directory / name, data) for name, data in contents.items()}


def _write(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _write_variant(checkpoint: EncoderCheckpoint, directory: Path, report: Progress) -> Variant:
    config, encoder, folder = checkpoint.config, checkpoint.encoder, directory / REFERENCE
    folder.mkdir()
    layout = encoder_layout(config, encoder)
    with TensorWriter(folder / WEIGHTS, layout) as writer:
        for done, name in enumerate(layout):
            report(f"write {REFERENCE}", done, len(layout))
            writer.add(name, checkpoint.read(name))
        files = {WEIGHTS: writer.finish()}
    graph = build_encoder_graph(config, encoder, writer.regions, WEIGHTS)
    files[GRAPH] = _write(folder / GRAPH, graph.SerializeToString(deterministic=True))
    report(f"export StableHLO of {REFERENCE}", 0, 1)
    files |= {name: hash_file(folder / name) for name in export_encoder(config, encoder, folder)}
    return Variant(
        quantisation="none (float32)",
        size=sum(entry.size for entry in files.values()),
        files={f"{REFERENCE}/{path}": entry for path, entry in files.items()},
        runtimes=RUNTIMES,
    )
