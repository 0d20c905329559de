"""A real `fungible up`, started and ended by tests."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from fungible.config import Config
from support.control_setup import write_config
from support.processes import FUNGIBLE


class Up:
    """A running `fungible up --json`."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path) -> None:
        self.process = process
        self.home = home
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"up ended with {process.wait()}: {(home / 'up.log').read_text()}"
        self.ready: dict[str, Any] = json.loads(line)

    def children(self) -> dict[str, psutil.Process]:
        """By the first word after `fungible`: `gateway`, `control`, `engine`."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
            words = child.cmdline()
            if "fungible.cli.supervised" in words:
                found[words[words.index("fungible.cli.supervised") + 1]] = child
        return found

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=90)


@contextmanager
def up(home: Path, config: Config) -> Iterator[Up]:
    path = write_config(config)
    with (home / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*FUNGIBLE, "up", "--json", "--config", str(path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Up(process, home)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
