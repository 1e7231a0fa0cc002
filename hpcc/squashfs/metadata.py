"""Metadata blocks, the carrier of every table, and the indexed tables made of them.

```
block    length u16, bit 15 set = stored uncompressed | bytes          8192 bytes uncompressed, the last one less
table    block, block, … | position u64 of each block                  fragments, ids, export, xattr ids
```

What lies in the inode and directory tables is named by a *reference*: (start of the block, relative
to the table, compressed) << 16 | offset in the uncompressed block.
"""

import struct
from collections.abc import Callable

from hpcc.errors import InvalidImage
from hpcc.squashfs.compression import Decompress

BLOCK = 8192
STORED = 0x8000

ReadAt = Callable[[int, int], bytes]
"""(offset from the start of the image, length) -> bytes; fewer only at the end of the file."""

_U16 = struct.Struct("<H")
_U64 = struct.Struct("<Q")


class MetadataWriter:
    """Collects records into metadata blocks.

    `out` holds the finished blocks, `starts` where each begins in it, the open one included.
    """

    __slots__ = ("_compress", "_open", "_start", "out", "starts")

    def __init__(self, compress: Callable[[bytes], bytes]) -> None:
        self.out = bytearray()
        self.starts = [0]
        self._start = 0
        self._open = bytearray()
        self._compress = compress

    def append(self, data: bytes | bytearray) -> int:
        """Add one record, which may span blocks; its reference."""
        held = self._open
        reference = self._start << 16 | len(held)
        held += data
        if len(held) >= BLOCK:
            self._flush()
        return reference

    def position(self) -> int:
        """Uncompressed bytes so far."""
        return (len(self.starts) - 1) * BLOCK + len(self._open)

    def finish(self) -> bytearray:
        """Close the open block; all blocks. Nothing may be appended after it."""
        if self._open:
            self._put(bytes(self._open))
            self._open = bytearray()
        return self.out

    def _flush(self) -> None:
        held = self._open
        whole = len(held) - len(held) % BLOCK
        for at in range(0, whole, BLOCK):
            self._put(bytes(held[at : at + BLOCK]))
            self._start = len(self.out)
            self.starts.append(self._start)
        del held[:whole]

    def _put(self, block: bytes) -> None:
        packed = self._compress(block)
        if len(packed) < len(block):
            self.out += _U16.pack(len(packed)) + packed
        else:
            self.out += _U16.pack(len(block) | STORED) + block


def encode_table(data: bytes, at: int, compress: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    """An indexed table that is written at position `at`: (its blocks, the positions of the blocks)."""
    writer = MetadataWriter(compress)
    writer.append(data)
    blocks = bytes(writer.finish())
    starts = writer.starts if len(data) % BLOCK else writer.starts[:-1]
    return blocks, b"".join(_U64.pack(at + start) for start in starts)


class MetadataReader:
    """Reads the metadata blocks between two positions of an image, with a bounded cache.

    Every error of the bytes is InvalidImage.
    """

    __slots__ = ("_cache", "_decompress", "_held", "_read_at", "end", "start", "what")

    def __init__(
        self, read_at: ReadAt, start: int, end: int, decompress: Decompress, *, what: str, held: int = 64
    ) -> None:
        self.start, self.end, self.what = start, end, what
        self._read_at, self._decompress, self._held = read_at, decompress, held
        self._cache: dict[int, tuple[bytes, int]] = {}

    def block(self, at: int) -> tuple[bytes, int]:
        """(the uncompressed block at position `at` of the image, position of the one after it)."""
        cache = self._cache
        found = cache.get(at)
        if found is not None:
            if len(cache) == self._held:  # full: what is used stays, what is not goes
                cache[at] = cache.pop(at)
            return found
        if not self.start <= at <= self.end - 2:
            raise self.broken("points outside its table")
        head = self._read_at(at, 2)
        if len(head) < 2:
            raise self.broken("is cut short")
        word = _U16.unpack(head)[0]
        length = word & ~STORED
        if not 0 < length <= BLOCK or at + 2 + length > self.end:
            raise self.broken("has a block of an impossible length")
        data = self._read_at(at + 2, length)
        if len(data) != length:
            raise self.broken("is cut short")
        if not word & STORED:
            data = self._decompress(data, BLOCK)
            if not data:
                raise self.broken("has an empty block")
        if len(cache) >= self._held:
            del cache[next(iter(cache))]
        cache[at] = found = (data, at + 2 + length)
        return found

    def cursor(self, reference: int) -> "Cursor":
        """A cursor at a reference (see the module)."""
        return Cursor(self, self.start + (reference >> 16), reference & 0xFFFF)

    def broken(self, how: str) -> InvalidImage:
        return InvalidImage(f"the {self.what} of the SquashFS image {how}", hint="pull or copy the image again")


class Cursor:
    """A place in a run of metadata blocks; reading moves it. `mark` goes back to it later."""

    __slots__ = ("_block", "_data", "_next", "_offset", "_reader")

    def __init__(self, reader: MetadataReader, block: int, offset: int) -> None:
        self._reader, self._block, self._offset = reader, block, offset
        self._data, self._next = reader.block(block)
        if offset > len(self._data):
            raise reader.broken("is referred to beyond a block's end")

    def read(self, length: int) -> bytes:
        """Exactly `length` bytes. The caller bounds it; the table's end does too."""
        begin = self._offset
        end = begin + length
        if end <= len(self._data):
            self._offset = end
            return self._data[begin:end]
        parts = [self._data[begin:]]
        length -= len(parts[0])
        while length:
            self._block = self._next
            self._data, self._next = self._reader.block(self._block)
            part = self._data[:length]
            parts.append(part)
            self._offset = len(part)
            length -= len(part)
        return b"".join(parts)

    def mark(self) -> tuple[int, int]:
        """(position of the block, offset in it), as the constructor takes them."""
        return self._block, self._offset


class TableReader:
    """Reads records of fixed size from an indexed table.

    The index lies at `index` and must, with `count` records of `size` bytes (a divisor of 8192),
    end before `end`; the blocks lie before it.
    """

    __slots__ = ("_blocks", "_index", "_read_at", "_size", "count")

    def __init__(
        self,
        read_at: ReadAt,
        index: int,
        count: int,
        size: int,
        decompress: Decompress,
        *,
        first: int,
        end: int,
        what: str,
    ) -> None:
        self._read_at, self._index, self._size, self.count = read_at, index, size, count
        self._blocks = MetadataReader(read_at, first, index, decompress, what=what, held=16)
        if index + 8 * -(-count * size // BLOCK) > end:
            raise self._blocks.broken("is larger than the image")

    def record(self, number: int) -> bytes:
        """Record `number`; InvalidImage when the table has fewer."""
        if not 0 <= number < self.count:
            raise self._blocks.broken(f"has no entry {number}")
        which, at = divmod(number * self._size, BLOCK)
        return self._block(which)[at : at + self._size]

    def all(self) -> bytes:
        """Every record, joined."""
        return b"".join(self._block(which) for which in range(-(-self.count * self._size // BLOCK)))

    def _block(self, which: int) -> bytes:
        """The records of one block, all of them."""
        position = self._read_at(self._index + 8 * which, 8)
        if len(position) < 8:
            raise self._blocks.broken("is cut short")
        length = min(BLOCK, self.count * self._size - which * BLOCK)
        data = self._blocks.block(_U64.unpack(position)[0])[0]
        if len(data) < length:
            raise self._blocks.broken("is cut short")
        return data[:length]
