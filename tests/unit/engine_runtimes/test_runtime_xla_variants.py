"""XLA on every variant that has a program: parity with ONNX Runtime, forks, truncation."""

from pathlib import Path

import numpy as np
import pytest

from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.parity import compare, parity_tokens, variant_logits
from fungible.contract.target import parse_target
from fungible.engine.runtimes.xla import XLARuntime
from fungible.errors import InputError
from support.tiny_model import build_tiny_artifact

# Mean KL from the f32 logits of ONNX Runtime: what rounding alone may cost the tiny model.
LIMITS = {"f32": 1e-9, "bf16": 2e-3, "f16": 2e-5, "int8": 8e-3}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=[*LIMITS, "int4"])


@pytest.mark.parametrize("variant", [*LIMITS, "int4"])
def test_scores_forks_and_truncates(artifact: Path, variant: str) -> None:
    manifest = load_manifest(artifact)
    tokens = parity_tokens(artifact, manifest.config)[:24]
    target = parse_target("xla:cpu")
    runtime = XLARuntime(artifact, variant, target, slots=2, context=32, threads=2)
    try:
        logits = runtime.score(0, tokens)
        reference = variant_logits(artifact, "f32", manifest.config, tokens)
        found = compare(reference, logits, tokens)
        recorded = manifest.variants[variant].parity
        limit = LIMITS.get(variant) or 2 * (recorded.mean_kl if recorded else 0)
        assert found.mean_kl < limit
        runtime.fork(0, 1, 10)
        near = {"rtol": 0, "atol": 0.05 if variant == "bf16" else 1e-3}
        np.testing.assert_allclose(runtime.prefill(1, tokens[10:]), logits[-1], **near)
        with pytest.raises(InputError, match="must be empty"):
            runtime.fork(0, 1, 5)
        runtime.truncate(0, 7)
        np.testing.assert_allclose(runtime.prefill(0, tokens[7:20]), logits[19], **near)
        with pytest.raises(InputError, match="holds 20 tokens"):
            runtime.truncate(0, 21)
    finally:
        runtime.close()
