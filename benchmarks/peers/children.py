"""Run one driver: send the job, read its events, watch its memory, end all that it started."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

_SAMPLE_S = 0.5
_FIRST_SAMPLE_S = 0.02
_GRACE_S = 15.0
Event = dict[str, Any]


class DriverError(Exception):
    """The driver failed, ended early or took too long; says what its last words were."""


class Driver:
    """A driver process and its children; use as a context manager.

    Args:
        python: Interpreter of the peer's environment.
        script: The driver.
        job: What it is to do.
        log: Where standard error goes.
    """

    def __init__(self, python: Path, script: Path, job: dict[str, Any], log: Path) -> None:
        self.peak_pss = 0
        self._log = log
        self._events: queue.Queue[Event | None] = queue.Queue()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # A group of its own, so that one signal reaches all that it starts.
                start_new_session=True,
            )
        self._done = threading.Event()
        self._members: dict[int, psutil.Process] = {}
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
                break
        self._signal(signal.SIGKILL)  # children that outlived their leader
        # What left the group is told apart from a process that has its number by start time.
        for member in self._members.values():
            with contextlib.suppress(psutil.Error):
                if member.is_running():
                    member.kill()
        for thread in self._threads:
            thread.join(_GRACE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def events(self, seconds: float) -> Iterator[Event]:
        """What the driver says, until it is done; each within `seconds` of the one before.

        Raises:
            DriverError: See there.
        """
        while True:
            try:
                event = self._events.get(timeout=seconds)
            except queue.Empty:
                raise DriverError(f"nothing for {seconds:.0f} s; {self._last_words()}") from None
            if event is None:
                status = self._process.wait()
                raise DriverError(f"ended with status {status}; {self._last_words()}")
            if event["event"] == "failed":
                raise DriverError(str(event["reason"]))
            if event["event"] == "loaded":
                self._sample()  # a small model is done before the first sample is due
            yield event
            if event["event"] == "done":
                return

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self._events.put(json.loads(line))
        self._events.put(None)

    def _watch(self) -> None:
        """Peak of the proportional set size over the whole tree: shared pages count once."""
        wait = _FIRST_SAMPLE_S  # a tiny model is done in less than the usual distance
        while not self._done.wait(wait):
            self._sample()
            wait = min(2 * wait, _SAMPLE_S)

    def _sample(self) -> None:
        total = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._process.pid)
            for member in [root, *root.children(recursive=True)]:
                self._members.setdefault(member.pid, member)
                with contextlib.suppress(psutil.Error):
                    total += member.memory_full_info().pss
        self.peak_pss = max(self.peak_pss, total)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        words = lines[-1].strip()[-300:] if lines else "it said nothing"
        return f"last words: {words} ({self._log})"
