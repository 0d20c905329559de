"""What a StableHLO program calls: read from the module, without JAX and without weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax import export

from fungible.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    content_digest,
    hash_file,
    load_manifest,
    write_manifest,
)
from fungible.artifacts.program import load_program
from fungible.artifacts.program_facts import program_facts
from fungible.artifacts.verify import verify_artifact
from fungible.errors import ArtifactError

MODULE = "step.stablehlo"


@pytest.fixture(scope="module")
def foreign() -> bytes:
    """A module that calls LAPACK."""
    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    exported = export.export(jax.jit(jnp.linalg.cholesky), platforms=["cpu"])(shape)
    return bytes(exported.mlir_module_serialized)


@pytest.fixture
def copy(tmp_path: Path, tiny_artifact: Path) -> Path:
    shutil.copytree(tiny_artifact, tmp_path / "copy")
    return tmp_path / "copy"


def write_and_enter(artifact: Path, path: str, data: bytes) -> None:
    """Change a file, and the manifest so that every digest agrees with it."""
    (artifact / path).write_bytes(data)
    manifest, name = load_manifest(artifact), path.partition("/")[0]
    files: dict[str, FileEntry] = manifest.variants[name].files | {path: hash_file(artifact / path)}
    variant = msgspec.structs.replace(manifest.variants[name], files=files)
    changed = msgspec.structs.replace(manifest, variants=manifest.variants | {name: variant})
    digest = content_digest(changed.all_files())
    write_manifest(artifact, msgspec.structs.replace(changed, digest=digest))


def test_every_program_calls_nothing_but_shape_assertions(tiny_artifact: Path) -> None:
    for name, variant in load_manifest(tiny_artifact).variants.items():
        facts = program_facts(tiny_artifact / name)
        assert (facts is not None) == ("xla" in variant.runtimes)
        if facts is not None:
            assert list(facts.custom_calls) == ["shape_assertion"]
            assert facts.other_calls == []
            assert facts.operators["stablehlo.dot_general"] > 1
            assert facts.platforms == ("cpu", "cuda", "rocm", "tpu")
            recorded = load_program(tiny_artifact / name).stablehlo_version
            assert facts.stablehlo_version == recorded


def test_a_planted_call_is_found(copy: Path, foreign: bytes) -> None:
    write_and_enter(copy, f"int8/{MODULE}", foreign)
    facts = program_facts(copy / "int8")
    assert facts is not None
    assert facts.other_calls == ["lapack_spotrf_ffi"]
    result = verify_artifact(copy)
    assert result.problems == []
    assert {check.variant: check.problems for check in result.variants if check.problems} == {
        "int8": ["calls outside StableHLO: lapack_spotrf_ffi"]
    }


def test_a_digest_that_is_not_that_of_the_files_is_found(copy: Path) -> None:
    manifest = load_manifest(copy)
    write_manifest(copy, msgspec.structs.replace(manifest, digest="sha256:" + "0" * 64))
    (problem,) = verify_artifact(copy).problems
    assert problem.startswith("manifest.json: digest is sha256:0000")
    assert manifest.digest in problem


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_module_is_one_clear_error(
    copy: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copy / "f32" / MODULE
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"no module")
    with pytest.raises(ArtifactError, match="not a readable StableHLO module") as caught:
        program_facts(copy / "f32")
    assert str(path) in caught.value.message
    assert "artifact verify" in caught.value.hint
    assert capfd.readouterr().err == ""


def test_inspect_reads_no_weights_and_does_not_import_jax(copy: Path) -> None:
    for weights in copy.glob("*/model.safetensors"):
        weights.unlink()
    code = (
        "import sys; from fungible.cli.artifact import artifact\n"
        "artifact(sys.argv[1:], standalone_mode=False)\n"
        "assert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "inspect", str(copy), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    assert programs["f32"]["custom_calls"].keys() == {"shape_assertion"}
    assert "5 years" in programs["f32"]["compatibility"]
    assert programs["int4-naive"] is None
    assert (copy / MANIFEST).exists()
