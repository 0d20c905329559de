"""A record of every step, so that its cost can be shared among the requests it served.

One JSON object a line; docs/reference/step-log.md says what the fields mean. A thread of its own
writes, and a step never waits for it: what the thread cannot keep up with is counted and left out.
"""

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from fungible.contract.ids import new_id
from fungible.errors import DiskError

_MOST_WAITING = 4096  # steps
_MOST_BYTES = 64 * 2**20  # of one file; the one before is kept as PATH.1
_FLUSH_S = 1.0


class RequestShare(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one request had of a step.

    Attributes:
        id: The request's.
        prefill: Prompt tokens run.
        decode: Tokens decoded, 0 or 1.
        kv: Tokens in its slot after the step.
    """

    id: str
    prefill: int = 0
    decode: int = 0
    kv: int = 0


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step that ran tokens.

    Attributes:
        step: Counts from 1; a gap means records that were dropped.
        start: Seconds of the monotonic clock.
        seconds: How long it took, with sampling.
        prefill_tokens: Prompt tokens run, in all.
        decode_tokens: Tokens decoded, in all.
        requests: Who had them.
    """

    step: int
    start: float
    seconds: float
    prefill_tokens: int
    decode_tokens: int
    requests: list[RequestShare]


class StepLog:
    """Writes records to a file, and starts another one when it is full.

    Args:
        path: Appended to; its folder must be there.
        most_bytes: The file becomes `PATH.1` when it has reached this size.

    Raises:
        DiskError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, most_bytes: int = _MOST_BYTES) -> None:
        self.dropped = 0
        self._run = new_id("run_")
        self._path = path
        self._most_bytes = most_bytes
        self._queue: queue.Queue[StepRecord | None] = queue.Queue(_MOST_WAITING)
        try:
            self._file = self._open()
        except OSError as error:
            raise DiskError(
                f"{path}: cannot write the step log: {error.strerror}",
                hint="choose another file with --step-log",
            ) from error
        self._thread = threading.Thread(target=self._work, name="step-log", daemon=True)
        self._thread.start()

    def add(self, record: StepRecord) -> None:
        """Queue a record, or count it as dropped; never waits."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            record = None
            try:
                record = self._queue.get(timeout=_FLUSH_S)
                ended = record is None
                if record is not None:
                    self._write(record)
            except queue.Empty:
                self._flush()
            except (OSError, ValueError):  # the disk is full, or the next file did not open
                self.dropped += 1
        self._flush(last=True)

    def _write(self, record: StepRecord) -> None:
        if self._file.closed:
            self._file = self._open()
        self._file.write(msgspec.json.encode(record) + b"\n")
        if self._file.tell() >= self._most_bytes:
            self._file.close()
            self._path.replace(f"{self._path}.1")
            self._file = self._open()

    def _flush(self, *, last: bool = False) -> None:
        with contextlib.suppress(OSError, ValueError):
            if last:
                self._file.close()
            else:
                self._file.flush()

    def _open(self) -> BinaryIO:
        """The file, with a line that names the run and ties its clock to the time of day."""
        file = self._path.open("ab")
        clocks = {"run": self._run, "monotonic": time.monotonic(), "unix": time.time()}
        file.write(msgspec.json.encode(clocks) + b"\n")
        return file


class StepRecorder:
    """Collects one step's record; does nothing without a log."""

    def __init__(self, log: StepLog | None) -> None:
        self._log = log
        self._shares: dict[int, RequestShare] = {}
        self._steps = 0

    @property
    def dropped(self) -> int:
        """Records that the log left out."""
        return 0 if self._log is None else self._log.dropped

    def note(
        self, slot: int, request_id: str, *, kv: int, prefill: int = 0, decode: int = 0
    ) -> None:
        """The request in a slot had tokens in this step; `kv` are in the slot now."""
        if self._log is None:
            return
        share = self._shares.setdefault(slot, RequestShare(id=request_id))
        share.prefill += prefill
        share.decode += decode
        share.kv = kv

    def finish(self, start: float, seconds: float) -> None:
        """The step is over."""
        if self._log is None:
            return
        self._steps += 1
        shares, self._shares = list(self._shares.values()), {}
        self._log.add(
            StepRecord(
                step=self._steps,
                start=start,
                seconds=seconds,
                prefill_tokens=sum(share.prefill for share in shares),
                decode_tokens=sum(share.decode for share in shares),
                requests=shares,
            )
        )

    def discard(self) -> None:
        """The step failed."""
        self._shares = {}

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
