"""One child process: started, watched until its ready line, and ended for certain."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fungible.errors import StartupError

# `-P`: what lies in the working directory must not shadow our modules.
FUNGIBLE = (sys.executable, "-P", "-m", "fungible.cli.supervised")
_LAST_LINES = 6
_LAST_BYTES = 8_000
_KILL_S = 5.0


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a server prints once it answers; see `cli/serve.py`."""

    event: str
    name: str
    url: str
    pid: int
    clickhouse: str = ""


class Child:
    """A server process of ours. Its stdin is a pipe that we hold: it ends when we are gone.

    Args:
        name: For messages and the log's file name.
        arguments: What follows `fungible` on the command line.
        log: Where its stderr, and its stdout after the ready line, are appended.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log = log
        self.ready: ReadyLine | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self._log_from = 0

    async def start(self, timeout_s: float) -> ReadyLine:
        """Start it and wait until it answers.

        Raises:
            StartupError: It ended or stayed silent; quotes the end of its log. It is gone then.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stderr:
            self._log_from = stderr.tell()
            self._process = await asyncio.create_subprocess_exec(
                *FUNGIBLE,
                *self.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(timeout_s):
                self.ready = await self._read_ready(self._process)
        except TimeoutError as error:
            await self.stop(0.0)
            raise self._failure(f"was not ready after {timeout_s:g} s") from error
        except BaseException:
            await self.stop(0.0)
            raise
        self._drain = asyncio.create_task(self._drain_output(self._process))
        return self.ready

    async def wait(self) -> int:
        """Its exit code, negative for a signal, once it has ended."""
        if self._process is None:
            return 0
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, then make it. Returns when it is gone; calling again does nothing."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            if grace_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), grace_s)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait_for(process.wait(), _KILL_S)
        if process.stdin is not None:
            process.stdin.close()
        if self._drain is not None:
            await self._drain
            self._drain = None

    def last_words(self) -> str:
        """The last lines that this run wrote to its log."""
        try:
            data = self.log.read_bytes()[self._log_from :][-_LAST_BYTES:]
        except OSError:
            return ""
        lines = data.decode(errors="replace").strip().splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])

    async def _read_ready(self, process: asyncio.subprocess.Process) -> ReadyLine:
        assert process.stdout is not None  # noqa: S101  # asked for a pipe
        while line := await process.stdout.readline():
            with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                said = msgspec.json.decode(line, type=ReadyLine)
                if said.event == "ready":
                    return said
        raise self._failure(f"ended with exit code {await process.wait()} before it was ready")

    def _failure(self, what: str) -> StartupError:
        words = self.last_words()
        quoted = f"; it said:\n{words}" if words else ""
        return StartupError(f"{self.name} {what}{quoted}", hint=f"its whole log: {self.log}")

    async def _drain_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # asked for a pipe
        with self.log.open("ab") as log:
            while line := await process.stdout.readline():
                log.write(line)
                log.flush()
