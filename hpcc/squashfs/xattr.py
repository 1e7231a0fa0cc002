"""The xattr tables.

```
pairs, in metadata blocks    type u16 | length u16 | name without prefix | length u32 | value
                             type: 0 user., 1 trusted., 2 security.; bit 8 set = the value is a u64,
                             the reference of (length u32 | value) elsewhere among the pairs
sets, an indexed table       reference of the first pair u64 | pairs u32 | size u32        16 bytes each
head                         start of the pairs u64 | sets u32 | unused u32, then the sets' index
```

Inodes name a set by its number. A set's size is that of its names with prefix and NUL, and values.
"""

import struct
from collections.abc import Callable, Iterable

from hpcc.errors import InvalidImage
from hpcc.squashfs.compression import Decompress
from hpcc.squashfs.metadata import Cursor, MetadataReader, MetadataWriter, ReadAt, TableReader, encode_table

NONE = 0xFFFFFFFF
"""The number of no set."""

Pairs = tuple[tuple[bytes, bytes], ...]

PREFIXES = (b"user.", b"trusted.", b"security.")
MOST_NAME, MOST_VALUE = 255, 65536  # XATTR_NAME_MAX, XATTR_SIZE_MAX of Linux
MOST_SET = 1 << 20  # bytes of one set, read from hostile input; Linux lists at most 64 KiB of names
SIZE = 16

_OUT_OF_LINE = 0x100
_KEY = struct.Struct("<HH")
_LENGTH = struct.Struct("<I")
_SET = struct.Struct("<QII")
_HEAD = struct.Struct("<QII")


def encode_xattrs(sets: Iterable[Pairs], at: int, compress: Callable[[bytes], bytes]) -> tuple[bytes, int]:
    """The tables of at least one set, to be written at `at`: (bytes, offset of the head in them).

    InvalidImage for a name that SquashFS cannot hold.
    """
    writer = MetadataWriter(compress)
    records = []
    for pairs in sets:
        reference, size = 0, 0
        for place, (name, value) in enumerate(pairs):
            where = writer.append(_encode_pair(name, value))
            reference = reference if place else where
            size += len(name) + 1 + len(value)
        records.append(_SET.pack(reference, len(pairs), size))
    pairs_out = bytes(writer.finish())
    blocks, index = encode_table(b"".join(records), at + len(pairs_out), compress)
    return pairs_out + blocks + _HEAD.pack(at, len(records), 0) + index, len(pairs_out) + len(blocks)


def _encode_pair(name: bytes, value: bytes) -> bytes:
    prefix = name[: name.find(b".") + 1]
    if prefix not in PREFIXES:
        raise InvalidImage(f"SquashFS cannot hold the extended attribute {name!r}: only user., trusted., security.")
    if len(name) > MOST_NAME or name == prefix or b"\0" in name:
        raise InvalidImage(f"not a name of an extended attribute: {name[:80]!r}")
    if len(value) > MOST_VALUE:
        raise InvalidImage(f"the extended attribute {name!r} has {len(value)} bytes; Linux allows {MOST_VALUE}")
    short = name[len(prefix) :]
    return _KEY.pack(PREFIXES.index(prefix), len(short)) + short + _LENGTH.pack(len(value)) + value


class XattrReader:
    """The sets of an image; those read last are kept."""

    __slots__ = ("_held", "_pairs", "_table")

    HELD = 64

    def __init__(self, read_at: ReadAt, head: int, end: int, first: int, decompress: Decompress) -> None:
        data = read_at(head, _HEAD.size)
        if len(data) < _HEAD.size or head + _HEAD.size > end:
            raise InvalidImage("the xattr table of the SquashFS image is cut short")
        start, count, _ = _HEAD.unpack(data)
        if not first <= start <= head:
            raise InvalidImage("the xattr table of the SquashFS image points outside it")
        what = "xattr table"
        self._table = TableReader(read_at, head + _HEAD.size, count, SIZE, decompress, first=start, end=end, what=what)
        self._pairs = MetadataReader(read_at, start, head, decompress, what=what, held=16)
        self._held: dict[int, Pairs] = {}

    def pairs(self, number: int) -> Pairs:
        """Set `number`, () for NONE, in the order on disk. InvalidImage for sets beyond MOST_SET bytes."""
        if number == NONE:
            return ()
        found = self._held.get(number)
        if found is None:
            found = self._read(number)
            if len(self._held) >= self.HELD:
                del self._held[next(iter(self._held))]
            self._held[number] = found
        return found

    def _read(self, number: int) -> Pairs:
        reference, count, _ = _SET.unpack(self._table.record(number))
        cursor = self._pairs.cursor(reference) if count else None
        found: list[tuple[bytes, bytes]] = []
        total = 0
        while cursor and len(found) < count:
            kind, length = _KEY.unpack(cursor.read(_KEY.size))
            if kind & ~_OUT_OF_LINE >= len(PREFIXES) or not 0 < length <= MOST_NAME:
                raise self._pairs.broken("has a name of an impossible type or length")
            name = PREFIXES[kind & ~_OUT_OF_LINE] + cursor.read(length)
            value = self._value(cursor)
            if kind & _OUT_OF_LINE:
                if len(value) != 8:
                    raise self._pairs.broken("has a value of an impossible length")
                value = self._value(self._pairs.cursor(struct.unpack("<Q", value)[0]))
            total += len(name) + len(value)
            if total > MOST_SET or b"\0" in name:
                raise self._pairs.broken("has a set of an impossible size or name")
            found.append((name, value))
        return tuple(found)

    def _value(self, cursor: Cursor) -> bytes:
        length = _LENGTH.unpack(cursor.read(4))[0]
        if length > MOST_VALUE:
            raise self._pairs.broken("has a value of an impossible length")
        return cursor.read(length)
