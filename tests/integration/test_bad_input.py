"""Bad input, from the command line: one clear error, what to do, the right exit code."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

FUNGIBLE = [sys.executable, "-m", "fungible"]
PRICES = "key,unit,leaf,price,currency,valid_from,valid_to,source,note\n"


def fungible(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FUNGIBLE, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def expect(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def left_over(path: Path) -> list[str]:
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(path) in line]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_quickstart_on_a_taken_port(tmp_path: Path, taken_port: int) -> None:
    home = tmp_path / "home"
    ports = ["--gateway-port", str(taken_port), "--control-port", "0"]
    done = fungible("quickstart", "--exit", "--home", str(home), *ports)
    expect(done, 4, str(taken_port), "hint: ")
    assert left_over(home) == []
    assert not (home / "artifacts").exists()


def test_the_error_is_data_under_json(tmp_path: Path, taken_port: int) -> None:
    ports = ["--gateway-port", str(taken_port), "--control-port", "0"]
    done = fungible("quickstart", "--exit", "--json", "--home", str(tmp_path / "home"), *ports)
    assert json.loads(done.stdout)["error"]["code"] == "port_in_use"


def test_up_without_a_configuration(tmp_path: Path) -> None:
    expect(fungible("up", "--config", str(tmp_path / "none.toml")), 2, "none.toml", "hint: ")


def test_up_with_a_backend_that_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "fungible.toml"
    config.write_text(
        '[gateway]\nport = 0\n[control]\nport = 0\n[backend.a]\nengine = { artifact = "nowhere" }\n'
        '[route.assistant]\nreference = "a"\n'
    )
    expect(fungible("up", "--config", str(config)), 4, "a", "nowhere")
    assert left_over(tmp_path) == []


def test_a_corrupt_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "broken.gguf"
    checkpoint.write_bytes(b"GGUF" + bytes(100))
    home = tmp_path / "home"
    expect(fungible("artifact", "build", str(checkpoint), "--home", str(home)), 2, "broken.gguf")
    assert list(home.glob("artifacts/*/manifest.json")) == []


def test_an_unknown_artifact(tmp_path: Path) -> None:
    done = fungible("artifact", "inspect", "nothing", "--home", str(tmp_path))
    expect(done, 2, "nothing")


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("cpu,hour,,0x9,USD,2026-01-01,,example,\n", "price"),
        ("cpu,fortnight,,1,USD,2026-01-01,,example,\n", "fortnight"),
        ("cpu,hour,,1,USD,2026-99-01,,example,\n", "valid_from"),
        ("cpu,hour,,1,USD,,,a,\ncpu,hour,,2,USD,,,b,\n", "cpu"),
    ],
)
def test_a_malformed_price_sheet(tmp_path: Path, row: str, word: str) -> None:
    (tmp_path / "prices.csv").write_text(PRICES + row)
    expect(fungible("cost", "report", "--home", str(tmp_path)), 2, "prices.csv", word)


def test_sql_that_the_ledger_refuses(tmp_path: Path) -> None:
    expect(fungible("cost", "sql", "selec 1", "--home", str(tmp_path)), 2)
    expect(fungible("cost", "sql", "drop table attempt_events", "--home", str(tmp_path)), 2)
