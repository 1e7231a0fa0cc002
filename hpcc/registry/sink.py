"""Where a blob goes while it is fetched."""

from typing import Protocol


class Sink(Protocol):
    """Takes a blob's bytes in order. They are not verified before `fetch_blob` returns."""

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None:
        """Forget all that was written; the blob comes again from its start."""


class Memory:
    """A sink for small blobs; the descriptor bounds it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()
