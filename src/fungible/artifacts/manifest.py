"""What an artifact says about itself: `manifest.json` at the root of its directory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from fungible.artifacts.model_config import EncoderConfig, ModelConfig
from fungible.errors import ArtifactError, DiskError

MANIFEST = "manifest.json"
REFERENCE = "f32"
VARIANTS = (REFERENCE, "bf16", "f16", "int8", "int4", "int4-ort", "int4-naive")
# What is built when nothing is asked for.
DEFAULT_VARIANTS = (REFERENCE, "int8", "int4", "int4-naive")
_CHUNK = 1 << 20


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file: SHA-256 in hexadecimal and size in bytes."""

    sha256: str
    size: int


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How far a variant's next-token distributions are from those of `reference`.

    Attributes:
        tokens: Positions compared, on one fixed text.
        mean_kl: Mean Kullback-Leibler divergence KL(reference ‖ variant), in nats.
        top1_agreement: Share of positions whose most likely token is the same.
        max_abs_diff: Largest difference between two logits.
        mean_abs_diff: Mean difference of logits, without sign.
        perplexity: Of the variant on that text; exp of the mean negative log-likelihood.
        reference_perplexity: Of the reference on it.
    """

    reference: str
    tokens: int
    mean_kl: float
    top1_agreement: float
    max_abs_diff: float
    mean_abs_diff: float
    perplexity: float
    reference_perplexity: float


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One precision of the model.

    Attributes:
        quantisation: How the weights are stored, in words.
        size: Bytes of all files.
        files: Path relative to the artifact's directory -> digest.
        parity: Distance from `f32`, both in ONNX Runtime on a CPU; `None` for `f32` itself.
        runtimes: Runtimes that can execute it.
    """

    quantisation: str
    size: int
    files: dict[str, FileEntry]
    parity: Parity | None = None
    runtimes: tuple[str, ...] = ("onnxruntime",)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `manifest.json`.

    Attributes:
        digest: `sha256:…` over the digests of every file, see `content_digest`.
        source: What it was built from, as the user named it.
        source_digest: `sha256:…` of the checkpoint's files.
        recipe: Version of the way artifacts are built.
        created: ISO 8601, UTC.
        kind: A `decoder` generates text; an `encoder` turns text into embeddings.
        encoder: What `config` does not say about an encoder.
        files: Files that all variants share.
        versions: Library or format -> version that made the files.
    """

    name: str
    digest: str
    source: str
    source_digest: str
    recipe: int
    licence: str
    created: str
    config: ModelConfig
    kind: Literal["decoder", "encoder"] = "decoder"
    encoder: EncoderConfig | None = None
    files: dict[str, FileEntry]
    variants: dict[str, Variant]
    versions: dict[str, str]

    def all_files(self) -> dict[str, FileEntry]:
        """Every file of the artifact but the manifest itself."""
        found = dict(self.files)
        for variant in self.variants.values():
            found |= variant.files
        return found


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """`sha256:…` over the lines `SHA256  PATH`, sorted by path (as `sha256sum` prints them)."""
    lines = "".join(f"{files[path].sha256}  {path}\n" for path in sorted(files))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def hash_file(path: Path) -> FileEntry:
    """Digest and size of a file.

    Raises:
        DiskError: The file cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    return FileEntry(sha256=digest.hexdigest(), size=size)


def load_manifest(directory: Path) -> Manifest:
    """The manifest of an artifact directory. Digests are not checked, see `verify`.

    Raises:
        ArtifactError: There is no manifest, or it is malformed; names the file and the field.
    """
    path = directory / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: no such file", hint="an artifact is made by `fungible artifact build`"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: {error}", hint="build the artifact again with `fungible artifact build`"
        ) from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, readable by people."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST).write_bytes(data + b"\n")
