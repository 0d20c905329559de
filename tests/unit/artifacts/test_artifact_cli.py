"""`fungible artifact` at the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fungible.cli.artifact import artifact
from support.tiny_model import write_tiny_checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_artifact: Path) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_artifact, home / "artifacts" / tiny_artifact.name)
    return home


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(artifact, [str(one) for one in arguments], catch_exceptions=False)


def test_list(home: Path) -> None:
    found = json.loads(run("list", "--home", home, "--json").stdout)
    assert [(one["name"], list(one["variants"])) for one in found] == [
        ("tiny-llama", ["f32", "bf16", "f16", "int8", "int4", "int4-ort", "int4-naive"])
    ]
    assert found[0]["digest"][:23] in run("list", "--home", home).stdout


def test_list_names_what_it_cannot_read(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "artifacts", tmp_path / "artifacts")
    old = tmp_path / "artifacts" / "0123456789abcdef"
    old.mkdir()
    (old / "manifest.json").write_text('{"name": "older"}')
    result = run("list", "--home", tmp_path, "--json")
    assert result.exit_code == 0
    assert [one["name"] for one in json.loads(result.stdout)] == ["tiny-llama"]
    assert f"left out: {old / 'manifest.json'}: " in result.stderr
    assert "build the artifact again" in result.stderr


def test_inspect(home: Path) -> None:
    found = json.loads(run("inspect", "tiny-llama", "--home", home, "--json").stdout)
    for name, graph in found["graphs"].items():
        assert graph["opset"] == 23
        assert graph["other_domains"] == (["com.microsoft"] if name == "int4-ort" else [])
        attention = ("RotaryEmbedding", 4) if name != "int4-ort" else ("GroupQueryAttention", 2)
        assert attention in graph["operators"].items()
    text = run("inspect", "tiny-llama", "--home", home).stdout
    assert found["manifest"]["digest"] in text
    programs = {name for name, program in found["programs"].items() if program}
    assert programs == {"f32", "bf16", "f16", "int8", "int4"}
    assert found["programs"]["int8"]["other_calls"] == []
    assert found["manifest"]["licence"] in text
    assert "int4-naive: no StableHLO program" in text
    assert "compatibility: StableHLO portable artifact" in text
    assert "non-standard domains: none" in text


def test_verify_exits_with_1_once_a_file_changed(home: Path, tmp_path: Path) -> None:
    assert run("verify", "tiny-llama", "--home", home).exit_code == 0
    copy = tmp_path / "copy"
    shutil.copytree(next((home / "artifacts").iterdir()), copy)
    with (copy / "config.json").open("a") as file:
        file.write(" ")
    result = run("verify", copy, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert found["problems"][0].startswith("config.json: SHA-256 is")


def test_build(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    arguments = ("build", source, "--variant", "int8", "--home", tmp_path, "--json")
    first, second = (json.loads(run(*arguments).stdout) for _ in range(2))
    assert first["digest"] == second["digest"]
    assert list(first["variants"]) == ["f32", "int8"]
    assert Path(first["path"]).is_dir()
    assert "int8" in run(*arguments[:-1]).stdout


def test_verify_on_targets_measures_and_refuses(home: Path) -> None:
    command = ("verify", "tiny-llama", "--home", home, "--json", "--variants", "f32,bf16")
    done = run(*command, "--targets", "openvino:cpu")
    found = json.loads(done.stdout)
    assert done.exit_code == 0, found
    assert [row["variant"] for row in found["targets"]] == ["f32", "bf16"]
    exact, rounded = (row["parity"] for row in found["targets"])
    assert exact["max_abs_diff"] < 1e-3 < rounded["max_abs_diff"]
    absent = run(*command, "--targets", "openvino:npu")
    assert absent.exit_code == 1
    assert all("npu" in row["problem"] for row in json.loads(absent.stdout)["targets"])


def test_a_bad_source_is_one_error_and_exit_status_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\0\0\0")
    code = "from fungible.cli.main import main; main()"
    command = [sys.executable, "-c", code, "artifact", "build", str(bad), "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: {bad}: the file ends inside the header",
        "hint: the file is damaged or incomplete: download it again",
    ]
