"""How long work tells somebody how far it is. The core calls it; cli/ and notebooks draw it."""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Part:
    """One piece of a stage, such as a layer. Tells nobody."""

    def advance(self, amount: int) -> None:
        """`amount` more bytes of it are done; of the stage, too."""

    def finish(self, said: str = "") -> None:
        """It is done; `said` tells how, where that is not how it usually goes. Idempotent."""


class Progress:
    """Tells nobody. Subclasses override; all methods may be called from any thread."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins: "Pulling", "Converting", …; `total` bytes, 0 where that is not known."""

    def part(self, name: str, total: int) -> Part:
        """A piece of the stage, of `total` bytes; without a name where there are no others."""
        return Part()

    def wrote(self, amount: int) -> None:
        """`amount` more bytes of what the stage makes, as its compressed blocks, are written."""

    def info(self, text: str) -> None:
        """A line for the user."""

    def warning(self, text: str) -> None:
        """A line that the user should see even when nothing else is said."""

    def close(self) -> None:
        """Take the bars away. Idempotent."""


class Telling(Progress):
    """Passes everything on, and tells somebody else in a few words how far it is: "Pulling, 43 % of 167 MB"."""

    def __init__(self, progress: Progress, tell: Callable[[str], None]) -> None:
        self._progress, self._tell = progress, tell
        self._name, self._total, self._done = "", 0, 0

    def stage(self, name: str, total: int = 0) -> None:
        self._name, self._total, self._done = name, total, 0
        self._progress.stage(name, total)

    def part(self, name: str, total: int) -> Part:
        return _TellingPart(self, self._progress.part(name, total))

    def wrote(self, amount: int) -> None:
        self._progress.wrote(amount)

    def info(self, text: str) -> None:
        self._progress.info(text)

    def warning(self, text: str) -> None:
        self._progress.warning(text)

    def close(self) -> None:
        self._progress.close()

    def count(self, amount: int) -> None:
        """So many more bytes of the stage are done."""
        self._done += amount
        if self._total:
            self._tell(f"{self._name}, {100 * self._done // self._total} % of {self._total / 1e6:.0f} MB")
        else:
            self._tell(self._name)


class _TellingPart(Part):
    def __init__(self, whole: Telling, part: Part) -> None:
        self._whole, self._part = whole, part

    def advance(self, amount: int) -> None:
        self._part.advance(amount)
        self._whole.count(amount)

    def finish(self, said: str = "") -> None:
        self._part.finish(said)


SILENT = Progress()
