import re
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax import export

from fungible.artifacts.checkpoint import expected_tensors
from fungible.artifacts.program import PROGRAM, Program, load_program
from fungible.artifacts.quantised_step import QuantisedStepWeights
from fungible.artifacts.quantize import SCHEMES
from fungible.artifacts.stablehlo import PLATFORMS, export_programs, export_step
from fungible.artifacts.step_weights import FloatStepWeights, StepWeights
from fungible.errors import ArtifactError
from support.tiny_model import CONFIG

STEPS: dict[str, StepWeights] = {
    "f32": FloatStepWeights(CONFIG),
    "bf16": FloatStepWeights(CONFIG, "BF16"),
    "f16": FloatStepWeights(CONFIG, "F16"),
    "int8": QuantisedStepWeights(CONFIG, SCHEMES["int8"]),
    "int4": QuantisedStepWeights(CONFIG, SCHEMES["int4"]),
}
WIDE = msgspec.structs.replace(CONFIG, hidden=4096, intermediate=16384, vocab=200_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    export_programs(CONFIG, folder)
    return folder


def read_step(folder: Path) -> export.Exported:
    return export.deserialize(bytearray((folder / "step.jax_export").read_bytes()))


def test_names_every_file_it_writes(folder: Path, tmp_path: Path) -> None:
    names = export_programs(CONFIG, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert sorted(names) == ["stablehlo.json", "step.jax_export", "step.stablehlo"]


def test_calls_nothing_but_shape_assertions(folder: Path) -> None:
    text = read_step(folder).mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    assert "dot_general" in text


@pytest.mark.parametrize("variant", STEPS)
def test_module_is_the_same_for_every_platform(variant: str) -> None:
    exported = [export_step(CONFIG, name, STEPS[variant]) for name in PLATFORMS]
    assert len({bytes(one.mlir_module_serialized) for one in exported}) == 1
    called = set(re.findall(r"custom_call @(\w+)", exported[0].mlir_module()))
    assert called == {"shape_assertion"}


@pytest.mark.parametrize("variant", ["bf16", "f16"])
def test_half_precision_programs_take_half_the_bytes(variant: str, tmp_path: Path) -> None:
    export_programs(CONFIG, tmp_path, STEPS[variant])
    kinds = {item.name: item.dtype for item in load_program(tmp_path).arguments}
    half = {"bf16": "bfloat16", "f16": "float16"}[variant]
    assert kinds["model.embed_tokens.weight"] == kinds["keys.0"] == half
    assert kinds["model.norm.weight"] == "float32"


def test_weights_are_not_in_the_program(tmp_path: Path, folder: Path) -> None:
    export_programs(WIDE, tmp_path)
    small, wide = (path / "step.stablehlo" for path in (folder, tmp_path))
    assert abs(wide.stat().st_size - small.stat().st_size) < 2_000


def test_two_exports_are_the_same_bytes_and_tell_nothing_of_this_machine(
    folder: Path, tmp_path: Path
) -> None:
    for name in export_programs(CONFIG, tmp_path):
        data = (tmp_path / name).read_bytes()
        assert data == (folder / name).read_bytes()
        assert b".py" not in data
        assert str(Path.cwd()).encode() not in data


def test_export_leaves_jax_settings_alone(tmp_path: Path) -> None:
    before = jax.config.jax_traceback_in_locations_limit
    export_programs(CONFIG, tmp_path)
    assert jax.config.jax_traceback_in_locations_limit == before


def test_record_describes_what_the_program_takes(folder: Path) -> None:
    program, step = load_program(folder), read_step(folder)
    tensors = expected_tensors(CONFIG)
    assert [item.name for item in program.arguments[: len(tensors)]] == list(tensors)
    assert [item.name for item in program.arguments[-5:]] == [
        "tokens", "slots", "starts", "counts", "window",
    ]  # fmt: skip
    for described, real in (
        (program.arguments, step.in_avals),
        (program.results, step.out_avals),
    ):
        shapes = [([str(n) for n in item.shape], item.dtype) for item in described]
        assert shapes == [([str(n) for n in aval.shape], aval.dtype.name) for aval in real]
    assert program.layers == CONFIG.layers
    assert program.context == CONFIG.context
    assert program.jax_version == jax.__version__


def test_portable_module_names_its_version(folder: Path) -> None:
    header = (folder / "step.stablehlo").read_bytes()[:64]
    version = load_program(folder).stablehlo_version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert header.startswith(b"ML\xefR")
    assert f"StableHLO_v{version}".encode() in header


def test_refuses_sizes_outside_its_constraints(folder: Path) -> None:
    step = read_step(folder)

    def compile_for(cache: int, window: int) -> None:
        sizes = {"B": 1, "S": 1, "N": 2, "C": cache, "P": window}
        flat = [
            jax.ShapeDtypeStruct([sizes.get(str(n), n) for n in item.shape], jnp.dtype(item.dtype))
            for item in load_program(folder).arguments
        ]
        arguments = jax.tree.unflatten(step.in_tree, flat)[0]
        jax.jit(step.call).lower(*arguments).compile()

    compile_for(32, 16)
    with pytest.raises(ValueError, match="refining shapes"):
        compile_for(32, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"{", "truncated"),
        (b'{"module": 3}', "module"),
    ],
)
def test_broken_record_is_one_clear_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / PROGRAM).write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_program(tmp_path)
    assert str(tmp_path / PROGRAM) in caught.value.message
    assert "artifact build" in caught.value.hint


def test_record_of_a_later_format_is_refused(tmp_path: Path, folder: Path) -> None:
    program: Program = load_program(folder)
    later = msgspec.structs.replace(program, format=2)
    (tmp_path / PROGRAM).write_bytes(msgspec.json.encode(later))
    with pytest.raises(ArtifactError, match="format 2"):
        load_program(tmp_path)
