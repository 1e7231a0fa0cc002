"""What a person sees while something lasts: bars on a terminal, quiet lines in a log."""

from __future__ import annotations

import sys
import time

from hpcc.cli import say
from hpcc.cli.arguments import Arguments
from hpcc.progress import SILENT, Progress
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


def terminal(arguments: Arguments) -> Progress:
    """The progress that suits stderr and the options."""
    if arguments.silent:
        return SILENT
    if arguments.quiet:
        return _Warnings()
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Warnings(Progress):
    def warning(self, text: str) -> None:
        say("WARNING", text)


class _Lines(_Warnings):
    """A line for each stage that took more than a second."""

    def __init__(self) -> None:
        self._name = ""
        self._done = 0
        self._since = 0.0

    def stage(self, name: str, total: int = 0) -> None:
        self.close()
        self._name, self._done, self._since = name, 0, time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount

    def info(self, text: str) -> None:
        say("INFO", text)

    def close(self) -> None:
        seconds = time.monotonic() - self._since
        if self._name and seconds > 1:
            say("INFO", f"{self._name}: {self._done / 1e6:.1f} MB in {seconds:.1f} s")
        self._name = ""


class _Bars(_Warnings):
    """rich's bars; nothing is imported or drawn before the first stage."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, total: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description:<11}"),
                BarColumn(bar_width=24),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        self._task = self._bars.add_task(name, total=total or None)

    def advance(self, amount: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)

    def info(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(f"INFO:    {text}", highlight=False, markup=False, soft_wrap=True)
        else:
            say("INFO", text)

    def warning(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(f"WARNING: {text}", highlight=False, markup=False, soft_wrap=True)
        else:
            say("WARNING", text)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
