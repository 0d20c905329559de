"""One `fungible` command as one task: its JSON becomes the XCom, its exit code the task's fate."""

import json
import logging
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fungible_tasks.settings import executable, located

log = logging.getLogger(__name__)

# `fungible` says what its exit codes mean: these do not get better by trying again. A missing
# port, disk or backend (4), an interrupt (130) or a crash may.
FINAL = {1: "the answer is no", 2: "bad input or configuration", 3: "not decidable"}
GRACE_S = 20.0
# Airflow's own settings hold its database's password and its keys; commands need none of them.
PRIVATE = ("AIRFLOW_", "_AIRFLOW_")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a command.

    Attributes:
        code: Exit code; negative for a signal.
        result: The JSON of standard output, None where there was none.
        why: The error it gave, or the end of what it said on standard error.
    """

    code: int
    result: Any
    why: str

    def failure(self) -> AirflowException:
        """The exception that gives a task the state that the exit code asks for."""
        why = self.why if self.why.startswith("error:") else reasons(self.result) or self.why
        if self.code in FINAL:
            return AirflowFailException(f"exit code {self.code} ({FINAL[self.code]}): {why}")
        return AirflowException(f"exit code {self.code}: {why}")


class Command:
    """One command in a process group of its own, which ends when it is told to.

    Args:
        argv: Program and arguments.
        cwd: Where it runs.
    """

    def __init__(self, argv: Sequence[str], cwd: Path | None = None) -> None:
        self._argv = list(argv)
        self._cwd = cwd
        self._process: subprocess.Popen[str] | None = None
        self._last: deque[str] = deque(maxlen=20)

    def run(self) -> Outcome:
        """Run it to its end; standard error goes to the task's log as it comes.

        Raises:
            AirflowFailException: The program is not there.
        """
        log.info("$ %s", shlex.join(self._argv))
        try:
            process = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise AirflowFailException(
                f"{self._argv[0]}: {error.strerror}; set FUNGIBLE_BIN to how it is started here"
            ) from error
        self._process = process
        last: deque[str] = deque(maxlen=20)
        listener = threading.Thread(target=_listen, args=(process.stderr, last), daemon=True)
        listener.start()
        try:
            with process.stdout as stream:
                output = stream.read()
            code = process.wait()
            listener.join()
        finally:
            # A task that runs out of time is interrupted in one of the waits above.
            self.stop()
        errors = [line for line in last if line.startswith(("error:", "hint:"))]
        return Outcome(code=code, result=parse(output), why=" ".join(errors or list(last)[-3:]))

    def stop(self) -> None:
        """End the command and what it started: politely, then for certain."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class CommandOperator(BaseOperator):
    """A task that runs one command at a time, which ends with the task."""

    _command: Command | None = None

    def call(self, argv: Sequence[str], *, cwd: Path | None = None) -> Outcome:
        """Run a command to its end."""
        self._command = Command(argv, cwd)
        return self._command.run()

    def on_kill(self) -> None:
        """Airflow ends the task."""
        if self._command is not None:
            self._command.stop()


class FungibleOperator(CommandOperator):
    """`fungible ARGUMENTS --json`.

    Args:
        arguments: Words after `fungible`, templated; empty ones are left out.
        accept: Exit codes besides 0 that let the task succeed.
        again: Exit codes that are tried again although they are an answer.
        placed: Whether the command takes `--home` and `--config`.
    """

    template_fields: Sequence[str] = ("arguments",)

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        accept: Collection[int] = (),
        again: Collection[int] = (),
        placed: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.arguments = arguments
        self.accept = accept
        self.again = again
        self.placed = placed

    def execute(self, context: Context) -> Any:
        """The command's result; that of a task which fails is kept as XCom `answer`."""
        words = [word for word in self.arguments if word]
        where = located() if self.placed else []
        outcome = self.call([*executable(), *words, *where, "--json"])
        if outcome.code == 0 or outcome.code in self.accept:
            context["ti"].xcom_push(key="exit_code", value=outcome.code)
            return outcome.result
        context["ti"].xcom_push(key="answer", value=outcome.result)
        if outcome.code in self.again:
            raise AirflowException(f"exit code {outcome.code}: {outcome.why}")
        raise outcome.failure()


def reasons(result: Any) -> str:
    """Why an answer is no: a verdict's reasons, or the nodes of a build that failed."""
    if not isinstance(result, dict):
        return ""
    nodes = result.get("nodes") or []
    failed = [
        f"{node['name']}: {node['status']} {node.get('message', '')}".rstrip()
        for node in nodes
        if node["status"] in ("error", "fail")
    ]
    return "; ".join([*map(str, result.get("reasons") or []), *failed])


def parse(output: str) -> Any:
    """What a command printed: one JSON document, or a list of those on its lines."""
    if not output.strip():
        return None
    try:
        return json.loads(output)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in output.splitlines() if line.strip()]
    except ValueError:
        return {"text": output[-2_000:]}


def environment() -> dict[str, str]:
    """Ours without Airflow's secrets and without our interpreter's own paths."""
    ours = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(PRIVATE)
    }


def _listen(stream: IO[str], last: deque[str]) -> None:
    with stream:
        for line in stream:
            if text := line.rstrip():
                last.append(text)
                log.info("%s", text)
