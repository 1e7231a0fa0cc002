"""Bars in a notebook, drawn as HTML that is replaced in place: no widgets are needed, and it stays when the cell ends.

Only where IPython runs as a kernel; a terminal, a script and IPython in a terminal get nothing from here.
"""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock

from hpcc.progress import SILENT, Part, Progress
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EVERY = 0.15  # seconds between two drawings
_SHOWN = 6  # parts at a time


def suited() -> Progress:
    """Bars where this runs in a notebook, else nothing."""
    show = _display()
    return Bars(show) if show is not None else SILENT


def _display() -> Callable[[str, str], Any] | None:
    """What shows (html, text) and gives a handle that replaces it; None where this is no notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if ipython is None or shell is None or getattr(shell, "kernel", None) is None:
        return None
    from importlib import import_module

    display: Any = import_module("IPython.display").display
    return lambda html, text: display({"text/html": html, "text/plain": text}, raw=True, display_id=True)


class Bars(Progress):
    """A bar for the stage, and one for each part that is on its way; at the end what was done, in a line."""

    def __init__(self, show: Callable[[str, str], Any]) -> None:
        self._show, self._handle = show, None
        self._lock = allocate_lock()
        self._began, self._drawn = time.monotonic(), 0.0
        self._name, self._total, self._done = "", 0, 0
        self._parts: list[_Bar] = []
        self._lines: list[str] = []
        self._past: list[str] = []

    def stage(self, name: str, total: int = 0) -> None:
        with self._lock:
            self._end_stage()
            self._name, self._total, self._done, self._began = name, total, 0, time.monotonic()
            self._parts = []
            self._draw()

    def part(self, name: str, total: int) -> Part:
        bar = _Bar(self, name, total)
        with self._lock:
            self._parts.append(bar)
        return bar

    def info(self, text: str) -> None:
        self.warning(text)

    def warning(self, text: str) -> None:
        with self._lock:
            self._lines.append(text)
            self._draw()

    def close(self) -> None:
        with self._lock:
            self._end_stage()
            self._draw()

    def count(self, bar: _Bar, amount: int) -> None:
        """So many more bytes of a part are done; drawn now and then."""
        with self._lock:
            bar.done += amount
            self._done += amount
            if time.monotonic() - self._drawn > EVERY:
                self._draw()

    def finished(self, bar: _Bar) -> None:
        with self._lock:
            if bar in self._parts:
                self._parts.remove(bar)

    def _end_stage(self) -> None:
        if self._name:
            seconds = time.monotonic() - self._began
            whole = f" of {self._total / 1e6:.1f}" if self._total > self._done else ""
            size = f" {self._done / 1e6:.1f}{whole} MB" if self._done else ""
            self._past.append(f"{self._name}:{size} in {seconds:.1f} s")
        self._name, self._parts = "", []

    def _draw(self) -> None:
        rows: list[tuple[str, int, int]] = []
        if self._name:
            rows.append((self._name, self._done, self._total))
            rows += [(bar.name, bar.done, bar.total) for bar in self._parts if bar.name and bar.done][:_SHOWN]
        texts = [*self._lines, *self._past]
        if not rows and not texts:
            return
        self._drawn = time.monotonic()
        page, text = _page(texts, rows), "\n".join([*texts, *(f"{row[0]}: {_amount(*row[1:])}" for row in rows)])
        if self._handle is None:
            self._handle = self._show(page, text)
        else:
            self._handle.update({"text/html": page, "text/plain": text}, raw=True)


class _Bar(Part):
    def __init__(self, bars: Bars, name: str, total: int) -> None:
        self.name, self.total, self.done, self._bars = name, total, 0, bars

    def advance(self, amount: int) -> None:
        self._bars.count(self, amount)

    def finish(self, said: str = "") -> None:
        self._bars.finished(self)


def _amount(done: int, total: int) -> str:
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB, {100 * done // total} %" if total else f"{done / 1e6:.1f} MB"


def _page(texts: list[str], rows: list[tuple[str, int, int]]) -> str:
    from html import escape

    said = "".join(f"<div>{escape(text)}</div>" for text in texts)
    cells = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td>'
        + (f'<td><progress value="{min(done, total)}" max="{total}"></progress></td>' if total else "<td></td>")
        + f'<td style="text-align:right">{_amount(done, total)}</td></tr>'
        for name, done, total in rows
    )
    return f'<div class="hpcc-progress">{said}{f"<table>{cells}</table>" if cells else ""}</div>'
