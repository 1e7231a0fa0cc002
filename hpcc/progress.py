"""How long work tells somebody how far it is. The core calls it; cli/ and notebooks draw it."""


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
        """A piece of the stage, of `total` bytes."""
        return Part()

    def info(self, text: str) -> None:
        """A line for the user."""

    def warning(self, text: str) -> None:
        """A line that the user should see even when nothing else is said."""

    def close(self) -> None:
        """Take the bars away. Idempotent."""


SILENT = Progress()
