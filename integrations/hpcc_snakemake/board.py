"""How far the images of a workflow are: a bar for each on a terminal, lines that begin with its name in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hpcc.cli import say
from hpcc.progress import Part, Progress
from hpcc_snakemake.resolve import Container

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class Board:
    """Makes the progress of each image; `close` takes the bars away. Idempotent."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars = _make_bars() if sys.stderr.isatty() and not quiet else None

    def row(self, container: Container) -> Progress:
        name = container.uri.removeprefix("docker://")
        return _Lines(name, self._quiet) if self._bars is None else _Row(name, self._bars)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()


class _Lines(Progress):
    def __init__(self, name: str, quiet: bool) -> None:
        self._name, self._quiet = name, quiet

    def stage(self, name: str, total: int = 0) -> None:
        if not self._quiet:
            say("INFO", f"{self._name}: {name}" + (f", {total / 1e6:.1f} MB" if total else ""))

    def info(self, text: str) -> None:
        if not self._quiet:
            say("INFO", f"{self._name}: {text}")

    def warning(self, text: str) -> None:
        say("WARNING", f"{self._name}: {text}")


class _Row(Progress):
    def __init__(self, name: str, bars: Bars) -> None:
        self._name, self._bars, self._task = name, bars, bars.add_task(name, total=None, visible=False)

    def stage(self, name: str, total: int = 0) -> None:
        self._bars.reset(self._task, description=f"{self._name}: {name}", total=total or None, visible=True)

    def part(self, name: str, total: int) -> Part:
        return _RowPart(self._bars, self._task)

    def warning(self, text: str) -> None:
        self._bars.console.print(f"WARNING: {self._name}: {text}", markup=False, highlight=False)

    def close(self) -> None:
        self._bars.update(self._task, visible=False)


class _RowPart(Part):
    def __init__(self, bars: Bars, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int) -> None:
        self._bars.advance(self._task, amount)


def _make_bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    bars.start()
    return bars
