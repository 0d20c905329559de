"""What a runtime does for an embedding model, and which library does it for which target."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.manifest import load_manifest
from fungible.contract.target import Target
from fungible.errors import ArtifactError, InputError, MissingExtraError

# runtime -> (module, class, extra that installs its library)
ENCODERS = {
    "onnxruntime": ("fungible.engine.runtimes.encoder_onnxruntime", "ONNXEncoder", "onnxruntime"),
    "openvino": ("fungible.engine.runtimes.encoder_openvino", "OpenVINOEncoder", "openvino"),
    "xla": ("fungible.engine.runtimes.encoder_xla", "XLAEncoder", "xla"),
}


class Encoder(Protocol):
    """One variant of an embedding model on one device. One thread calls it."""

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings `(B, hidden)` of a batch.

        Args:
            ids: Tokens `(B, S)`, filled up on the right; S is at most the model's context.
            mask: `(B, S)`, 1 where there is a token; at least one in every row.

        Raises:
            EngineError: The library failed.
        """
        ...

    def close(self) -> None:
        """Free memory; the encoder is not used afterwards."""
        ...


class EncoderFactory(Protocol):
    """How an encoder is made: it loads the weights before it returns."""

    def __call__(self, artifact: Path, variant: str, target: Target, *, threads: int) -> Encoder:
        """See `open_encoder`."""
        ...


def open_encoder(artifact: Path, variant: str, target: Target, *, threads: int) -> Encoder:
    """Load a variant of an embedding model on a target.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: Runtime and device.
        threads: CPU threads of one batch.

    Raises:
        ArtifactError: It is no embedding model, has no such variant, or cannot be loaded.
        InputError: The runtime has no encoder, or no such device here.
        MissingExtraError: The runtime's library is not installed.
    """
    manifest = load_manifest(artifact)
    if manifest.kind != "encoder":
        raise ArtifactError(f"{artifact}: {manifest.name} is not an embedding model")
    if variant not in manifest.variants:
        raise ArtifactError(
            f"{artifact}: no variant {variant!r}", hint=f"it has: {', '.join(manifest.variants)}"
        )
    if target.runtime not in ENCODERS:
        raise InputError(
            f"target {target} does not run embedding models",
            hint=f"use one of {', '.join(f'{name}:cpu' for name in ENCODERS)}",
        )
    module, attribute, extra = ENCODERS[target.runtime]
    try:
        factory = cast(EncoderFactory, getattr(import_module(module), attribute))
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"target {target} needs {error.name}, which is not installed",
            hint=f"pip install 'fungible[{extra}]'",
        ) from error
    return factory(artifact, variant, target, threads=threads)
