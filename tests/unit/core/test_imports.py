"""What `import fungible` and `fungible --help` cost: nothing heavy, no socket."""

import json
import subprocess
import sys

HEAVY = {"numpy", "jax", "onnx", "onnxruntime", "chdb", "scipy", "clickhouse_connect", "gguf"}
HEAVY |= {"tokenizers", "aiohttp", "uvicorn", "starlette", "rich", "openai", "pandas", "pyarrow"}

PROBE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened at import")
socket.socket = refuse
{code}
print(json.dumps(sorted(name.split(".")[0] for name in sys.modules)))
"""


def modules_after(code: str) -> set[str]:
    probe = PROBE.format(code=code)
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_fungible_loads_nothing_heavy() -> None:
    assert modules_after("import fungible") & HEAVY == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import click.testing\n"
        "from fungible.cli.main import cli\n"
        "result = click.testing.CliRunner().invoke(cli, ['--help'])\n"
        "assert result.exit_code == 0 and 'quickstart' in result.output"
    )
    assert modules_after(code) & HEAVY == set()
