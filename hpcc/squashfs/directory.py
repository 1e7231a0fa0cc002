"""The directory table: the listing of each directory, names in byte order.

```
listing   header, entry, entry, … header, entry, …        a header serves 1 to 256 entries
header    entries - 1 u32 | block of their inodes in the inode table u32 | a number u32
entry     offset of the inode in that block u16 | its number - the header's i16
          | basic type u16 | length - 1 u16 | name
```

A new header begins when the inodes' metadata block changes, when a number is too far away for
16 bits, after 256 entries, and with each metadata block of the listing, so that the index of a
large directory can point to it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

from hpcc.errors import InvalidImage
from hpcc.squashfs.metadata import BLOCK, Cursor

MOST_ENTRIES = 256
MOST_NAME = 255

_HEADER = struct.Struct("<3I")
_ENTRY = struct.Struct("<HhHH")
_INDEX = struct.Struct("<3I")


def encode_listing(
    entries: Iterable[tuple[bytes, int, int, int]], position: int
) -> tuple[bytearray, list[tuple[int, bytes]]]:
    """The listing of (name, kind, inode number, inode reference)s that are sorted by name.

    `position` is where it will lie in the uncompressed directory table. With it: the index,
    (position in the listing of a header, first name of it), one entry for each metadata block that
    the listing enters. struct.error when an inode lies beyond 4 GiB of the inode table.
    """
    out = bytearray()
    index: list[tuple[int, bytes]] = []
    entry, header = _ENTRY.pack, _HEADER.pack_into
    at, count, block, base = 0, 0, -1, 0
    indexed = position // BLOCK
    limit = BLOCK - position % BLOCK  # of the listing's bytes: where its next metadata block begins
    for name, kind, number, reference in entries:
        delta = number - base
        if reference >> 16 != block or count == MOST_ENTRIES or not -32768 <= delta <= 32767 or len(out) >= limit:
            if count:
                header(out, at, count - 1, block, base)
            at, count, block, base, delta = len(out), 0, reference >> 16, number, 0
            page = (position + at) // BLOCK
            limit = (page + 1) * BLOCK - position
            if page != indexed:
                indexed = page
                index.append((at, name))
            out += b"\0\0\0\0\0\0\0\0\0\0\0\0"
        out += entry(reference & 0xFFFF, delta, kind, len(name) - 1)
        out += name
        count += 1
    if count:
        header(out, at, count - 1, block, base)
    return out, index


def parse_listing(cursor: Cursor, size: int) -> Iterator[tuple[bytes, int]]:
    """(name, inode reference) of `size` bytes of listing, read as they are asked for.

    InvalidImage for a header or entry that does not fit, for a name that no directory can hold,
    and for names that are not in ascending order: so none comes twice, and an unpacker cannot be
    led through a symbolic link that stands under the name of a directory.
    """
    after = b""
    while size > 0:
        size -= _HEADER.size
        if size < 0:
            raise InvalidImage("a directory of the SquashFS image ends inside a header")
        count, block, _ = _HEADER.unpack(cursor.read(_HEADER.size))
        if count >= MOST_ENTRIES:
            raise InvalidImage(f"a directory of the SquashFS image has a header for {count + 1} entries")
        for _ in range(count + 1):
            offset, _, _, length = _ENTRY.unpack(cursor.read(_ENTRY.size))
            length += 1
            size -= _ENTRY.size + length
            if size < 0 or length > MOST_NAME + 1:
                raise InvalidImage("a directory of the SquashFS image ends inside an entry")
            name = cursor.read(length)
            if name <= after:
                raise InvalidImage(f"a directory of the SquashFS image is not sorted, or has {name!r} twice")
            check_name(name)
            after = name
            yield name, block << 16 | offset


def parse_index(cursor: Cursor, count: int) -> Iterator[tuple[int, int, bytes]]:
    """(position in the listing, block of the directory table, name) of each entry of an index."""
    for _ in range(count):
        at, block, length = _INDEX.unpack(cursor.read(_INDEX.size))
        if length > MOST_NAME:
            raise InvalidImage("a directory index of the SquashFS image has a name of an impossible length")
        yield at, block, cursor.read(length + 1)


def check_name(name: bytes) -> None:
    """InvalidImage unless a directory can hold this name."""
    if not 0 < len(name) <= MOST_NAME or b"/" in name or b"\0" in name or name == b"." or name == b"..":
        raise InvalidImage(f"not a name that a directory can hold: {name[:80]!r}")


def check_names(names: Sequence[bytes]) -> None:
    """`check_name` of many, quicker."""
    joined = b"/".join(names)
    if (
        joined.count(b"/") != max(0, len(names) - 1)
        or b"\0" in joined
        or b"." in names
        or b".." in names
        or b"" in names
        or len(max(names, key=len, default=b"")) > MOST_NAME
    ):
        for name in names:
            check_name(name)
