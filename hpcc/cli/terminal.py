"""What a person sees while something lasts: bars on a terminal, quiet lines in a log.

Pulling                      ━━━━━━━━  43% 72.3/167.3 MB 92.1 MB/s 0:00:01   all of it
 layer 2 of 5, 0f3c5aa1b2c4  ━━━━━━━━  61% …                                 each that is on its way
 blocks written                            81.0 MB 103.2 MB/s                what has come of it
"""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock  # threading costs a warm run 2 ms

from hpcc.cli import say
from hpcc.cli.arguments import Arguments
from hpcc.progress import SILENT, Part, Progress
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

EVERY = 30.0  # seconds between two lines of a log about one layer


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
    """A line for each layer, now and then one for what takes long, and one for each stage that took over a second."""

    def __init__(self) -> None:
        self.name, self._since, self._total, self._wrote = "", 0.0, 0, 0
        self._lock = allocate_lock()

    def stage(self, name: str, total: int = 0) -> None:
        self.close()
        self.name, self._since, self._total, self._wrote = name, time.monotonic(), total, 0

    def wrote(self, amount: int) -> None:
        with self._lock:
            self._wrote += amount

    def part(self, name: str, total: int) -> Part:
        return _Line(self, name, total)

    def info(self, text: str) -> None:
        with self._lock:
            say("INFO", text)

    def close(self) -> None:
        seconds = time.monotonic() - self._since
        if self.name and seconds > 1:
            size = f", {self._total / 1e6:.1f} MB, {_rate(self._total, seconds)}" if self._total else ""
            wrote = f", {self._wrote / 1e6:.1f} MB of blocks written" if self._wrote else ""
            self.info(f"{self.name}: {seconds:.1f} s{size}{wrote}")
        self.name = ""


class _Line(Part):
    def __init__(self, lines: _Lines, name: str, total: int) -> None:
        # A word begins the line; a file's name stays as it is.
        self._name = name[:1].upper() + name[1:] if name.partition(" ")[0].isalpha() else name or lines.name
        self._lines, self._total, self._since, self._done = lines, total, time.monotonic(), 0
        self._next = self._since + EVERY

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() > self._next:
            self._next = time.monotonic() + EVERY
            percent = f"{100 * self._done // self._total} % of " if self._total else ""
            rate = _rate(self._done, time.monotonic() - self._since)
            self._lines.info(f"{self._name}: {percent}{(self._total or self._done) / 1e6:.1f} MB, {rate}")

    def finish(self, said: str = "") -> None:
        how = said or f"in {time.monotonic() - self._since:.1f} s"
        self._lines.info(f"{self._name}: {self._total / 1e6:.1f} MB, {how}")


def _rate(amount: int, seconds: float) -> str:
    return f"{amount / 1e6 / max(seconds, 0.001):.1f} MB/s"


class _Bars(_Warnings):
    """rich's bars; nothing is imported or drawn before the first stage."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._written: TaskID | None = None

    def stage(self, name: str, total: int = 0) -> None:
        if self._bars is None:
            self._bars = _make_bars()
            self._bars.start()
        self._task = self._bars.add_task(name, total=total or None)
        self._written = self._bars.add_task(" blocks written", total=None, visible=False, start=False)

    def part(self, name: str, total: int) -> Part:
        return Part() if self._bars is None or self._task is None else _Bar(self._bars, self._task, name, total)

    def wrote(self, amount: int) -> None:
        if self._bars is not None and self._written is not None:
            _advance(self._bars, self._written, amount)

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
            self._bars = self._task = self._written = None


def _make_bars() -> Bars:
    """Bars with per cent, bytes, speed and time left, where there is a number of bytes to come."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, DownloadColumn, Task, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Percent(TextColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text()

    class Size(DownloadColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text(decimal(int(task.completed)) if task.completed else "")

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.completed else Text()

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text()

    return Bars(
        TextColumn("{task.description:<27}"),
        BarColumn(bar_width=8),
        Percent("{task.percentage:>3.0f}%"),
        Size(),
        Speed(),
        Left(),
        console=Console(stderr=True),
    )


def _advance(bars: Bars, task: TaskID, amount: int) -> None:
    """Show the task from its first byte on."""
    if amount and not bars.tasks[task].started:
        bars.start_task(task)
        bars.update(task, visible=True)
    bars.advance(task, amount)


class _Bar(Part):
    """A bar from its first byte to its end, so that there are as many as downloads at a time."""

    def __init__(self, bars: Bars, stage: TaskID, name: str, total: int) -> None:
        self._bars, self._stage = bars, stage
        # What has no name is drawn as its stage alone.
        self._task = bars.add_task(f" {name}", total=total or None, visible=False, start=False) if name else stage

    def advance(self, amount: int) -> None:
        if self._task != self._stage:
            _advance(self._bars, self._task, amount)
        self._bars.advance(self._stage, amount)

    def finish(self, said: str = "") -> None:
        if self._task != self._stage:
            self._bars.update(self._task, visible=False)
