"""`fungible artifact preflight` with compilers that are installed here."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fungible.cli.artifact import artifact
from fungible.errors import InputError

TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
SIZES = ("--batch", "2", "--context", "64")
has_libtpu = find_spec("libtpu") is not None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(tiny_f32: Path, home: Path, *arguments: str | Path) -> Result:
    command = ["preflight", tiny_f32, "--home", home, *SIZES, *arguments]
    return CliRunner().invoke(artifact, [str(one) for one in command], catch_exceptions=False)


def rows(result: Result) -> dict[str, dict[str, Any]]:
    return {row["target"]: row for row in json.loads(result.stdout)["targets"]}


def write_chips(path: Path, **fields: object) -> Path:
    chip = {"target": "xla:cpu:small", "chip": "a small chip", "compiler": "xla", **fields}
    path.write_text(f"read: 2026-01-01\nchips: [{json.dumps(chip)}]\n")
    return path


def test_the_host_compiles_and_says_what_memory_it_needs(tiny_f32: Path, home: Path) -> None:
    result = run(tiny_f32, home, "--targets", "xla:cpu", "--json")
    row = rows(result)["xla:cpu"]
    assert result.exit_code == 0
    assert row["compiles"] is True
    assert row["fits"] is True
    assert row["why"] == ""
    assert row["decode"]["memory"]["arguments"] > row["weight_bytes"] + row["cache_bytes"]
    assert row["memory_bytes"] > row["decode"]["memory"]["arguments"]
    assert row["bound_tokens_per_s"] is None
    assert row["floor_usd_per_mtok"] is None


def test_what_compiled_is_kept(tiny_f32: Path, home: Path) -> None:
    run(tiny_f32, home, "--targets", "xla:cpu")
    kept = sorted((home / "cache" / "preflight").glob("*.json"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes().replace(b'"seconds":', b'"seconds":77'))
    again = rows(run(tiny_f32, home, "--targets", "xla:cpu", "--json"))["xla:cpu"]
    assert str(again["decode"]["seconds"]).startswith("77")


def test_bound_floor_and_fit_of_a_chip(tiny_f32: Path, home: Path, tmp_path: Path) -> None:
    figures = {"memory_gb": 0.001, "bandwidth_gb_s": 1, "peak_tflops": {"f32": 1}}
    chips = write_chips(tmp_path / "chips.yaml", **figures)
    plot = tmp_path / "plot.html"
    result = run(tiny_f32, home, "--chips", chips, "--price", "small=3.6", "--json", "--plot", plot)
    row = rows(result)["xla:cpu:small"]
    assert result.exit_code == 0
    assert row["fits"] is True
    assert row["bound_tokens_per_s"] == pytest.approx(1e9 / row["bytes_per_token"], rel=1e-3)
    assert row["bound_tokens_per_s_per_user"] == pytest.approx(row["bound_tokens_per_s"] / 2)
    assert row["floor_usd_per_mtok"] == pytest.approx(1000 / row["bound_tokens_per_s"])
    assert row["limit"] == "memory"
    assert max(point["batch"] for point in row["curve"]) <= row["largest_batch"] < 100
    page = plot.read_text()
    assert "a small chip, batch 2:" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    chips = write_chips(tmp_path / "chips.yaml", **figures | {"memory_gb": 0.0004})
    result = run(tiny_f32, home, "--chips", chips)
    assert result.exit_code == 0
    assert "NO" in result.stdout.splitlines()[2].split()


def test_a_damaged_program_is_a_reason_not_a_crash(
    tiny_f32: Path, home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_f32, copy)
    program = copy / "f32" / "step.jax_export"
    program.write_bytes(program.read_bytes()[:1000])
    result = run(copy, home, "--targets", "xla:cpu", "--json")
    assert result.exit_code == 1
    row = rows(result)["xla:cpu"]
    assert row["compiles"] is False
    assert row["fits"] is None
    assert row["why"]


def test_a_compiler_that_hangs_is_stopped(tiny_f32: Path, home: Path) -> None:
    # Another batch is another step: nothing that is kept stands in for it.
    result = run(tiny_f32, home, "--targets", "xla:cpu", "--batch", "5", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "xla:cpu: the compiler was stopped after 0.05 s" in result.stdout


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_a_missing_compiler_is_named_with_its_remedy(tiny_f32: Path, home: Path) -> None:
    result = run(tiny_f32, home, "--targets", "xla:tpu:v6e", "--json")
    assert result.exit_code == 4
    row = rows(result)["xla:tpu:v6e"]
    assert row["why"] == "needs libtpu: pip install 'fungible[preflight]'"
    assert row["compiles"] is False
    # The bound does not depend on a compiler.
    assert row["bound_tokens_per_s"] > 0
    assert run(tiny_f32, home, "--targets", "xla:tpu:v6e,xla:cpu").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--variant", "int9"), "'int9' is not there"),
        (("--batch", "0"), "at least one row"),
        (("--context", "257"), "1 to 256 tokens"),
        (("--targets", "xla:gpu"), "names no chip"),
        (("--price", "v6e"), "CHIP=USD_PER_HOUR"),
    ],
)
def test_bad_input(tiny_f32: Path, home: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(tiny_f32, home, *arguments)


@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: uv sync --group preflight")
def test_tpus_compile_without_hardware(tiny_f32: Path, home: Path) -> None:
    found = rows(run(tiny_f32, home, "--targets", "xla:tpu", "--json"))
    assert list(found) == [f"xla:tpu:{name}" for name in TPUS]
    for row in found.values():
        assert row["why"] == ""
        assert row["fits"] is True
        assert row["temporary_bytes"] > 0
        assert row["bound_tokens_per_s"] > 0


def test_iree_compiles_for_gpus_that_are_not_here(tiny_f32: Path, home: Path) -> None:
    pytest.importorskip("iree.compiler", reason="needs iree-base-compiler")
    targets = ("iree:cuda:sm_90", "iree:metal")
    found = rows(run(tiny_f32, home, "--targets", ",".join(targets), "--json"))
    assert {name: row["why"] for name, row in found.items()} == dict.fromkeys(targets, "")
    assert all(row["temporary_bytes"] > 0 for row in found.values())
    assert found["iree:metal"]["fits"] is None
