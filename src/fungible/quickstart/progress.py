"""Progress on standard error: bars on a terminal, one line per finished stage elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed


class Stage:
    """One piece of work with a known or unknown length."""

    def __init__(self, bars: Progress, title: str) -> None:
        self._bars = bars
        self._task = bars.add_task(title, total=None)
        self.detail = ""

    def update(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._bars.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Say what came of it, shown behind the finished stage."""
        self.detail = text

    def finish(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)


class Stages:
    """The stages of a long command, in order, with the seconds each took."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.seconds: dict[str, float] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Elapsed(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show a stage while its block runs."""
        started = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"… {title}", markup=False)
        self._bars.start()
        stage = Stage(self._bars, title)
        try:
            yield stage
        finally:
            stage.finish()
            self._bars.stop()
            self.seconds[title] = round(time.monotonic() - started, 1)
        detail = f": {stage.detail}" if stage.detail else ""
        self.console.print(f"✓ {title}{detail} ({self.seconds[title]:.1f} s)", markup=False)
