"""Checkpoint -> artifact: read once, write every variant, measure it, move it into the store."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from fungible.artifacts.checkpoint import Checkpoint, expected_tensors, locate
from fungible.artifacts.gguf_checkpoint import GGUFCheckpoint
from fungible.artifacts.huggingface import HuggingFaceCheckpoint
from fungible.artifacts.manifest import (
    VARIANTS,
    FileEntry,
    Manifest,
    Variant,
    content_digest,
    hash_file,
    llama_config_json,
    write_manifest,
)
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.tensors import TensorSpec, TensorWriter
from fungible.errors import ArtifactError

RECIPE = 1
Progress = Callable[[str, int, int], None]


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
    variants: Sequence[str] = VARIANTS,
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
    wanted = [name for name in VARIANTS if name == "f32" or name in variants]
    report = progress or (lambda _stage, _done, _total: None)
    checkpoint = open_checkpoint(source)
    report("hash the checkpoint", 0, 1)
    source_digest = content_digest({path.name: hash_file(path) for path in checkpoint.files})
    with store.locked():
        found = store.find(source_digest, RECIPE, wanted)
        if found is not None:
            return found
        with store.building() as directory:
            files = _write_shared(checkpoint, directory)
            built = {"f32": _write_f32(checkpoint, directory, report)}
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
                versions={"fungible": version("fungible")},
            )
            write_manifest(directory, manifest)
            return store.adopt(directory, manifest)


def _write_shared(checkpoint: Checkpoint, directory: Path) -> dict[str, FileEntry]:
    config = msgspec.json.encode(llama_config_json(checkpoint.config))
    contents = {
        "config.json": msgspec.json.format(config, indent=2) + b"\n",
        "tokenizer.json": checkpoint.tokenizer_json,
        "chat_template.jinja": checkpoint.chat_template.encode(),
    }
    entries = {}
    for name, data in contents.items():
        (directory / name).write_bytes(data)
        entries[name] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return entries


def _write_f32(checkpoint: Checkpoint, directory: Path, report: Progress) -> Variant:
    shapes = expected_tensors(checkpoint.config)
    (directory / "f32").mkdir()
    specs = {name: TensorSpec("F32", shape) for name, shape in shapes.items()}
    with TensorWriter(directory / "f32" / "model.safetensors", specs) as writer:
        for done, name in enumerate(shapes):
            report("f32 weights", done, len(shapes))
            writer.add(name, checkpoint.read(name))
        entry = writer.finish()
    files = {"f32/model.safetensors": entry}
    return Variant(quantisation="none (float32)", size=entry.size, files=files)
