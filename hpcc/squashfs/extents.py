"""Where the blocks of one regular file lie, for reading anywhere in it.

An inode has a size word for each block and not its position, so that one must add them up from the start of the file.
The sums are kept for each run of STRIDE blocks, and the words of one run: so a file of any size costs some KiB.
"""

import struct

from hpcc.squashfs.inode import STORED
from hpcc.squashfs.metadata import Cursor, MetadataReader

STRIDE = 1024


class Extents:
    """The blocks of a file whose size words begin at `mark` of the inode table, and whose data begins at `start`."""

    __slots__ = ("_held", "_inodes", "_runs", "_starts", "_words")

    def __init__(self, inodes: MetadataReader, mark: tuple[int, int], start: int) -> None:
        self._inodes = inodes
        self._runs = [(mark, start)]  # of each run so far: its words' place, its data's
        self._held = -1  # the run whose words these are
        self._words: tuple[int, ...] = ()
        self._starts: list[int] = []

    def block(self, number: int, blocks: int) -> tuple[int, int]:
        """(position in the image, size word) of block `number` of the file's `blocks`. InvalidImage."""
        run, at = divmod(number, STRIDE)
        if run != self._held:
            for each in range(min(run, len(self._runs) - 1), run + 1):
                self._load(each, min(STRIDE, blocks - each * STRIDE))
        return self._starts[at], self._words[at]

    def _load(self, run: int, many: int) -> None:
        mark, position = self._runs[run]
        cursor = Cursor(self._inodes, *mark)
        words = struct.unpack(f"<{many}I", cursor.read(4 * many))
        starts = []
        for word in words:
            starts.append(position)
            position += word & ~STORED
        if run + 1 == len(self._runs) and many == STRIDE:
            self._runs.append((cursor.mark(), position))
        self._held, self._words, self._starts = run, words, starts
