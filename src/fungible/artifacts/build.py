"""Checkpoint -> artifact: read once, write every variant, measure it, move it into the store."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from fungible.artifacts.checkpoint import Checkpoint, expected_tensors, locate
from fungible.artifacts.config_json import llama_config_json
from fungible.artifacts.encoder_build import build_encoder_artifact
from fungible.artifacts.encoder_checkpoint import is_encoder
from fungible.artifacts.gguf_checkpoint import GGUFCheckpoint
from fungible.artifacts.huggingface import HuggingFaceCheckpoint
from fungible.artifacts.manifest import (
    DEFAULT_VARIANTS,
    REFERENCE,
    VARIANTS,
    FileEntry,
    Manifest,
    Parity,
    Variant,
    content_digest,
    hash_file,
    write_manifest,
)
from fungible.artifacts.parity import compare, parity_tokens, variant_logits
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.variants import WRITERS, Progress
from fungible.errors import ArtifactError

RECIPE = 3
_LIBRARIES = ("fungible", "gguf", "jax", "numpy", "onnx", "onnxruntime", "tokenizers")


def open_checkpoint(source: str) -> Checkpoint:
    """The checkpoint that `source` names: a `.gguf` file, a directory, or `package:NAME`.

    Raises:
        ArtifactError: There is none, or it cannot be built; names file and tensor.
    """
    path = locate(source)
    if path.is_dir():
        return HuggingFaceCheckpoint(path)
    return GGUFCheckpoint(path)


def build_artifact(
    source: str,
    store: ArtifactStore,
    *,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    progress: Progress | None = None,
) -> Path:
    """Build `source` into `store`, or find it there; the artifact's directory.

    Args:
        source: See `open_checkpoint`.
        store: Where the artifact goes; one build at a time per store.
        variants: Of `VARIANTS`; `f32` is always built, the others are measured against it.
        progress: Called with (stage, done, total).

    Raises:
        ArtifactError: The checkpoint cannot be read; nothing is left behind.
        DiskError: The disk is full; nothing is left behind.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ArtifactError(
            f"variant {unknown[0]!r} is not known", hint=f"known: {', '.join(VARIANTS)}"
        )
    wanted = [name for name in VARIANTS if name == REFERENCE or name in variants]
    report = progress or (lambda _stage, _done, _total: None)
    path = locate(source)
    if is_encoder(path):
        return build_encoder_artifact(source, path, store, variants, report)
    checkpoint = open_checkpoint(str(path))
    report("hash the checkpoint", 0, 1)
    source_digest = content_digest({path.name: hash_file(path) for path in checkpoint.files})
    with store.locked():
        found = store.find(source_digest, RECIPE, wanted)
        if found is not None:
            return found
        store.require_space(_estimate(checkpoint, wanted))
        with store.building() as directory:
            files = _write_shared(checkpoint, directory)
            built = {name: _write_variant(checkpoint, directory, name, report) for name in wanted}
            built = _with_parity(checkpoint, directory, built, report)
            every = files | {path: e for v in built.values() for path, e in v.files.items()}
            manifest = Manifest(
                name=checkpoint.name,
                digest=content_digest(every),
                source=source,
                source_digest=source_digest,
                recipe=RECIPE,
                licence=checkpoint.licence,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                config=checkpoint.config,
                files=files,
                variants=built,
                versions={name: version(name) for name in _LIBRARIES},
            )
            write_manifest(directory, manifest)
            return store.adopt(directory, manifest)


def _estimate(checkpoint: Checkpoint, variants: Sequence[str]) -> int:
    """Bytes that the build will write, rounded up."""
    shapes = expected_tensors(checkpoint.config).values()
    weights = sum(int(np.prod(shape)) for shape in shapes)
    per_weight = sum(WRITERS[name].bytes_per_weight for name in variants)
    return int(weights * per_weight) + 16_000_000


def _write_shared(checkpoint: Checkpoint, directory: Path) -> dict[str, FileEntry]:
    config = msgspec.json.encode(llama_config_json(checkpoint.config))
    contents = {
        "config.json": msgspec.json.format(config, indent=2) + b"\n",
        "tokenizer.json": checkpoint.tokenizer_json,
        "chat_template.jinja": checkpoint.chat_template.encode(),
    }
    return {name: _write(directory / name, data) for name, data in contents.items()}


def _write(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _write_variant(checkpoint: Checkpoint, directory: Path, name: str, report: Progress) -> Variant:
    writer = WRITERS[name]
    (directory / name).mkdir()
    files = writer.write(checkpoint, directory, name, report)
    return Variant(
        quantisation=writer.words,
        size=sum(entry.size for entry in files.values()),
        files={f"{name}/{path}": entry for path, entry in files.items()},
        runtimes=writer.runtimes,
    )


def _with_parity(
    checkpoint: Checkpoint, directory: Path, variants: dict[str, Variant], report: Progress
) -> dict[str, Variant]:
    """The variants with their distance from the reference, measured in ONNX Runtime."""
    if len(variants) == 1:
        return variants
    report("measure parity", 0, len(variants))
    tokens = parity_tokens(directory, checkpoint.config)
    reference = variant_logits(directory, REFERENCE, checkpoint.config, tokens)
    measured: dict[str, Parity | None] = {REFERENCE: None}
    for done, name in enumerate(variants, start=1):
        if name != REFERENCE:
            logits = variant_logits(directory, name, checkpoint.config, tokens)
            measured[name] = compare(reference, logits, tokens)
        report("measure parity", done, len(variants))
    return {
        name: msgspec.structs.replace(variant, parity=measured[name])
        for name, variant in variants.items()
    }
