"""Files in a folder or a bucket, and their import by one `fungible ingest` command."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseSensorOperator, Context, ObjectStoragePath
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

from fungible_tasks.commands import CommandOperator
from fungible_tasks.settings import executable, located, setting

# A command line holds so many names with room to spare.
BATCH = 200
LOCAL = ("", "file")
SHOWN = 50
SEEN = "seen"
# Below a stream's folder; the hour is left out where a stream comes by the day.
HOURLY = "dt={{ data_interval_start | ds }}/hour={{ data_interval_start.strftime('%H') }}"
DAILY = "dt={{ data_interval_start | ds }}"


def inbox(folder: str) -> ObjectStoragePath:
    """A folder below `FUNGIBLE_INBOX`, which is a path or the URL of a bucket.

    Raises:
        AirflowFailException: There is no inbox.
    """
    root = setting("INBOX")
    if not root:
        raise AirflowFailException("no inbox: set FUNGIBLE_INBOX to a folder or a bucket's URL")
    return ObjectStoragePath(root.rstrip("/")) / folder


def arrived(folder: ObjectStoragePath) -> list[ObjectStoragePath]:
    """All files below a folder by name; not hidden ones, nor those still being written."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.rglob("*") if not _unfinished(path) and path.is_file()]
    return sorted(found, key=str)


def fingerprint(files: Sequence[ObjectStoragePath]) -> dict[str, list[float]]:
    """Size and time of each file, by which a change is noticed."""
    marks = {}
    for path in files:
        state = path.stat()
        marks[str(path)] = [float(state.st_size), float(state.st_mtime)]
    return marks


class ChangeSensor(BaseSensorOperator):
    """Waits until a folder's files are others than those last imported, then skips.

    Not Airflow's `soft_fail`, which would take a missing inbox for a quiet hour.

    Args:
        folder: Below the inbox.
        importer: The task that pushes what it imported as XCom `seen`.
        watch: How long after the run's beginning.
    """

    def __init__(self, *, folder: str, importer: str, watch: timedelta, **options: Any) -> None:
        super().__init__(mode="reschedule", **options)
        self.folder = folder
        self.importer = importer
        self.watch = watch

    def poke(self, context: Context) -> bool:
        """Whether there are other files now than at the last import; skips at the end."""
        marks = fingerprint(arrived(inbox(self.folder)))
        seen = context["ti"].xcom_pull(task_ids=self.importer, key=SEEN, include_prior_dates=True)
        forced = bool(context["params"].get("again")) and bool(marks)
        if forced or (marks and marks != seen):
            return True
        if datetime.now(UTC) > context["dag_run"].run_after + self.watch:
            raise AirflowSkipException(f"nothing new in {self.folder}")
        return False


class ArrivalSensor(BaseSensorOperator):
    """Waits for an interval's first file; an interval long past is skipped at once.

    Args:
        folder: Below the inbox, templated.
    """

    template_fields: Sequence[str] = ("folder",)

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(mode="reschedule", **options)
        self.folder = folder

    def poke(self, context: Context) -> bool:
        """Whether there is a file; skips when patience is over."""
        if arrived(inbox(self.folder)):
            return True
        patience = timedelta(minutes=float(setting("PATIENCE_MINUTES")))
        end = context["data_interval_end"]
        if datetime.now(UTC) > end + patience:
            raise AirflowSkipException(f"no file in {self.folder}")
        return False


class IngestOperator(CommandOperator):
    """`fungible ingest STREAM FILE… --json` for all files of a folder.

    Facts have natural keys, so a folder may be imported again and again.

    Args:
        stream: The subcommand.
        folder: Below the inbox, templated.
        asset: What the import brings up to date.
        batch: Files to a command.
    """

    template_fields: Sequence[str] = ("folder",)

    def __init__(
        self, *, stream: str, folder: str, asset: Asset, batch: int = BATCH, **options: Any
    ) -> None:
        super().__init__(outlets=[asset], **options)
        self.stream = stream
        self.folder = folder
        self.asset = asset
        self.batch = batch

    def execute(self, context: Context) -> dict[str, Any]:
        """Counts, and the first receipts. Files after one that is refused are imported, too.

        Raises:
            AirflowSkipException: There is no file.
            AirflowFailException: Files were refused.
        """
        files = arrived(inbox(self.folder))
        if not files:
            raise AirflowSkipException(f"no file in {self.folder}")
        marks = fingerprint(files)
        receipts: list[dict[str, Any]] = []
        refused: list[str] = []
        for start in range(0, len(files), self.batch):
            some = files[start : start + self.batch]
            try:
                receipts += self._ingest(some)
            except AirflowFailException as error:
                refused.append(str(error))
                for path in some:
                    marks.pop(str(path))
        context["ti"].xcom_push(key=SEEN, value=marks)
        if refused:
            raise AirflowFailException("; ".join(refused))
        taken = {
            "files": len(files),
            "rows": sum(receipt["rows"] for receipt in receipts),
            "rejected": sum(receipt["rejected"] for receipt in receipts),
        }
        if taken["rejected"]:
            self.log.warning("%d rows were refused; table `rejects` says why", taken["rejected"])
        context["outlet_events"][self.asset].extra = taken
        return taken | {"receipts": receipts[:SHOWN]}

    def _ingest(self, files: Sequence[ObjectStoragePath]) -> list[dict[str, Any]]:
        with at_hand(files) as (folder, paths):
            argv = [*executable(), "ingest", self.stream, *located(), "--json", "--", *paths]
            outcome = self.call(argv, cwd=folder)
        if outcome.code != 0:
            raise outcome.failure()
        return receipts_of(outcome.result)


class SnapshotOperator(CommandOperator):
    """Keeps what a command prints (JSON) as a file of a folder.

    Args:
        folder: Below the inbox, templated.
        name: How the file's name begins; the time follows.
        argv: Program and arguments.
    """

    template_fields: Sequence[str] = ("folder",)
    map_index_template = "{{ task.name }}"

    def __init__(self, *, folder: str, name: str, argv: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.name = name
        self.argv = argv

    def execute(self, context: Context) -> str:
        """Where the file is."""
        outcome = self.call(self.argv)
        if outcome.code != 0:
            raise AirflowException(f"exit code {outcome.code}: {outcome.why}")
        folder = inbox(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps(outcome.result))
        return str(path)


def receipts_of(result: Any) -> list[dict[str, Any]]:
    """The receipts in what an `ingest` command printed: a list, a line each, or below `files`."""
    if isinstance(result, dict) and "files" in result:
        return [one["receipt"] for one in result["files"]]
    return result if isinstance(result, list) else [result]


@contextmanager
def at_hand(files: Sequence[ObjectStoragePath]) -> Iterator[tuple[Path | None, list[str]]]:
    """Local paths of files; those of a bucket are copied below a folder first.

    The copies are named relative to that folder, so that a receipt names the same source each time.
    """
    if all(path.protocol in LOCAL for path in files):
        yield None, [path.path for path in files]
        return
    with tempfile.TemporaryDirectory(prefix="fungible-") as folder:
        copies = []
        for path in files:
            copy = Path(folder, path.path.lstrip("/"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            # When a list of machines was made is known by its file.
            made = path.stat().st_mtime
            os.utime(copy, (made, made))
            copies.append(str(copy.relative_to(folder)))
        yield Path(folder), copies


def _unfinished(path: ObjectStoragePath) -> bool:
    return path.name.startswith((".", "_")) or path.name.endswith((".part", ".tmp"))
