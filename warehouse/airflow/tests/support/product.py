"""Fungible as Airflow meets it: a program in an environment of its own, and a running control."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
SHIPPING_S = 20.0
CONFIG = """
[control]
port = 0

[gateway]
port = 0

[backend.reference]
kind = "null"
options = { text = "Paris" }

[backend.same]
kind = "null"
options = { text = "Paris" }

[backend.worse]
kind = "null"
options = { text = "I do not know" }

[backend.gone]
kind = "openai_http"
url = "http://127.0.0.1:9/v1"

[route.assistant]
reference = "reference"
backends = ["same", "worse", "gone"]
"""


class Product:
    """One home with its configuration, and `control` over it."""

    def __init__(self, binary: Path, home: Path) -> None:
        self.binary = binary
        self.home = home
        self.config = home / "fungible.toml"
        self.config.write_text(f'home = "{home}"\n{CONFIG}')

    def ask(self, *words: str) -> Any:
        """The JSON that a command prints."""
        argv = [str(self.binary), *words, "--config", str(self.config), "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=True)
        return json.loads(done.stdout)

    def rows(self, query: str) -> list[list[Any]]:
        """What the ledger answers, through the running control."""
        return list(self.ask("cost", "sql", query)["rows"])

    def wait_for(self, query: str, rows: list[list[Any]]) -> None:
        """Until the ledger answers so: control ships records a moment after they were written."""
        end = time.monotonic() + SHIPPING_S
        while (found := self.rows(query)) != rows:
            assert time.monotonic() < end, f"{query}: {found} instead of {rows}"
            time.sleep(0.2)


def environment_of(project: Path) -> Path:
    """The environment of a project, made from its lock file if need be."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    uv = [os.environ.get("UV", "uv"), "run", "--frozen", "--project", str(project)]
    where = [*uv, "python", "-c", "import sys; print(sys.prefix)"]
    done = subprocess.run(where, env=env, capture_output=True, text=True, timeout=200, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def fungible_binary() -> Path:
    """`fungible` in the product's own environment."""
    if given := os.environ.get("FUNGIBLE_BIN"):
        return Path(given)
    return environment_of(ROOT) / "bin" / "fungible"


@pytest.fixture(scope="session")
def product(fungible_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A home over which control runs."""
    made = Product(fungible_binary, tmp_path_factory.mktemp("fungible"))
    argv = [str(made.binary), "control", "serve", "--config", str(made.config)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"control ended with {process.wait()} before it was ready"
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture
def fungible(product: Product, monkeypatch: pytest.MonkeyPatch) -> Product:
    """The product, with the DAGs' settings that lead to it."""
    monkeypatch.setenv("FUNGIBLE_BIN", str(product.binary))
    monkeypatch.setenv("FUNGIBLE_CONFIG", str(product.config))
    return product


@pytest.fixture(scope="session")
def dbt_binary() -> Path:
    """dbt in an environment of its own, which is made from its lock file if need be."""
    if given := os.environ.get("FUNGIBLE_DBT"):
        return Path(given)
    return environment_of(ROOT / "warehouse" / "dbt") / "bin" / "dbt"
