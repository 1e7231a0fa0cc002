"""What a person sees while something lasts: bars on a terminal, quiet lines in a log.

Pulling      ━━━━━━━━━━━━━━━━━━━━━━━━ 167.3/167.3 MB 92.1 MB/s 0:00:00      all of it
  layer 2 of 5, 0f3c5aa1b2c4 ━━━━━━━━ …                                     each that is on its way
"""

from __future__ import annotations

import sys
import threading
import time

from hpcc.cli import say
from hpcc.cli.arguments import Arguments
from hpcc.progress import SILENT, Part, Progress
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
    """A line for each layer, and for each stage that took more than a second."""

    def __init__(self) -> None:
        self._name = ""
        self._since = 0.0
        self._lock = threading.Lock()

    def stage(self, name: str, total: int = 0) -> None:
        self.close()
        self._name, self._since = name, time.monotonic()

    def part(self, name: str, total: int) -> Part:
        return _Line(self, name, total)

    def info(self, text: str) -> None:
        with self._lock:
            say("INFO", text)

    def close(self) -> None:
        seconds = time.monotonic() - self._since
        if self._name and seconds > 1:
            self.info(f"{self._name}: {seconds:.1f} s")
        self._name = ""


class _Line(Part):
    def __init__(self, lines: _Lines, name: str, total: int) -> None:
        self._lines, self._name, self._total, self._since = lines, name, total, time.monotonic()

    def finish(self, said: str = "") -> None:
        how = said or f"in {time.monotonic() - self._since:.1f} s"
        # A word begins the line; a file's name stays as it is.
        name = self._name[:1].upper() + self._name[1:] if self._name.split()[0].isalpha() else self._name
        self._lines.info(f"{name}: {self._total / 1e6:.1f} MB, {how}")


class _Bars(_Warnings):
    """rich's bars; nothing is imported or drawn before the first stage."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, total: int = 0) -> None:
        if self._bars is None:
            self._bars = _make_bars()
            self._bars.start()
        self._task = self._bars.add_task(name, total=total or None)

    def part(self, name: str, total: int) -> Part:
        return Part() if self._bars is None or self._task is None else _Bar(self._bars, self._task, name, total)

    def info(self, text: str) -> None:
        self._say("INFO", text)

    def warning(self, text: str) -> None:
        self._say("WARNING", text)

    def _say(self, level: str, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(f"{level + ':':<9}{text}", highlight=False, markup=False, soft_wrap=True)
        else:
            say(level, text)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None


def _make_bars() -> Bars:
    """Bars with bytes, speed and time left, where there is a number of bytes to come."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Task, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Size(DownloadColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text()

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text()

    return Bars(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=12),
        Size(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Bar(Part):
    """A bar from its first byte to its end, so that there are as many as downloads at a time."""

    def __init__(self, bars: Bars, stage: TaskID, name: str, total: int) -> None:
        self._bars, self._stage = bars, stage
        self._task = bars.add_task(f" {name}", total=total or None, visible=False, start=False)

    def advance(self, amount: int) -> None:
        self._bars.advance(self._stage, amount)
        if amount and not self._bars.tasks[self._task].started:
            self._bars.start_task(self._task)
            self._bars.update(self._task, visible=True)
        self._bars.advance(self._task, amount)

    def finish(self, said: str = "") -> None:
        self._bars.update(self._task, visible=False)
