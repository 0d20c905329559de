from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from fungible.cli.bench import bench
from fungible.contract.events import BenchEvent
from fungible.errors import ConfigError, InputError
from support.spool_records import spool_records

CONFIG = """
home = "home"
[backend.quick]
kind = "null"
options = { tokens = 4, ttft_ms = 5 }
[backend.slow]
kind = "null"
options = { tokens = 4, ttft_ms = 25 }
[backend.dead]
kind = "null"
options = { fail_rate = 1.0 }
[route.assistant]
reference = "quick"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fungible.toml"
    path.write_text(CONFIG)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(bench, [str(one) for one in arguments])


def test_show_describes_the_trace() -> None:
    shape = msgspec.json.decode(invoke("show", "--json").stdout)
    assert (shape["requests"], shape["sessions"]) == (40, 12)
    assert "burstiness" in invoke("show").stdout


def test_replay_prints_and_records(config: Path, tmp_path: Path) -> None:
    result = invoke("replay", "--config", config, "--backend", "quick", "--speed", 40, "--json")
    assert result.exit_code == 0, result.output
    data = msgspec.json.decode(result.stdout)
    (event,) = spool_records(tmp_path / "home" / "spool", BenchEvent)
    assert (event.run_id, event.backend) == (data["run_id"], "quick")
    assert data["summary"]["output_tokens"] == 160


def test_replay_says_what_its_length_supports(config: Path) -> None:
    result = invoke("replay", "--config", config, "--backend", "quick", "--speed", 60)
    assert "so few requests support p75 at most" in result.stdout


def test_saturate(config: Path) -> None:
    result = invoke("replay", "--config", config, "--backend", "slow", "--saturate", 8)
    assert result.exit_code == 0, result.output
    assert "output tokens/s" in result.stdout
    assert "first token" not in result.stdout


def test_a_run_without_an_answer_is_not_valid(config: Path) -> None:
    result = invoke("replay", "--config", config, "--backend", "dead", "--speed", 90)
    assert result.exit_code == 3
    assert "not valid: every request failed" in result.stdout


def test_compare(config: Path) -> None:
    result = invoke("compare", "--config", config, "slow", "quick", "--blocks", 2, "--json")
    assert result.exit_code == 0, result.output
    assert msgspec.json.decode(result.stdout)["ratio"]["value"] > 1.5


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (["--backend", "nobody"], ConfigError, "unknown backend 'nobody'"),
        (["--backend", "quick", "--trace", "nowhere"], ConfigError, "nowhere"),
        (["--backend", "quick", "--speed", "0"], InputError, "speed is 0"),
    ],
)
def test_wrong_input_is_one_error(
    config: Path, options: list[str], kind: type[Exception], said: str
) -> None:
    result = invoke("replay", "--config", config, *options)
    assert isinstance(result.exception, kind)
    assert said in str(result.exception)
