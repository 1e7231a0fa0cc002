"""The inode table: one record per file, 16 common bytes and then by type.

```
common    type u16 | mode u16 | uid, gid: u16 indexes into the id table | mtime u32 | number u32
 1 dir       block u32 | nlink u32 | listing + 3 u16 | offset u16 | parent's number u32
 2 file      start u32 | fragment u32 | offset u32 | size u32 | size word u32 of each block
 3 symlink   nlink u32 | length u32 | target
 4, 5 device nlink u32 | rdev u32                                6, 7 fifo, socket  nlink u32
 8 dir       nlink u32 | listing + 3 u32 | block u32 | parent u32 | entries of index u16 | offset u16
             | xattrs u32 | index: position in the listing u32, block u32, length - 1 u32, name
 9 file      start u64 | size u64 | sparse u64 | nlink u32 | fragment u32 | offset u32 | xattrs u32 | words
10 symlink   as 3, then xattrs u32      11, 12 device, 13, 14 fifo, socket: as 4 to 7, then xattrs u32
```

A directory's (block, offset) is the place of its listing in the directory table, a device number
has the minor's low byte, 12 bits of major, the rest of the minor.
"""

import struct
from collections.abc import Callable, Sequence

from hpcc.errors import InvalidImage
from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SOCKET, SYMLINK
from hpcc.records import NamedTuple
from hpcc.squashfs.metadata import Cursor

NO_FRAGMENT = 0xFFFFFFFF
NO_XATTRS = 0xFFFFFFFF
MOST_TARGET = 4095  # PATH_MAX less its NUL; the kernel refuses a longer target
EXTENDED = 7  # added to a kind, it gives the extended type

STORED = 1 << 24
"""Bit of a size word: the block is stored uncompressed."""


class Placement(NamedTuple):
    """Where a regular file's bytes lie.

    size      bytes of the file
    start     offset of its first data block from the start of the image; the others follow it
    blocks    the size word of each block: STORED, 0 for a hole. With a fragment there are
              size // block_size of them, without one the last may be partial
    fragment  index of the fragment block that holds the tail, or NO_FRAGMENT
    offset    of the tail inside the uncompressed fragment block
    sparse    bytes of the file that are holes
    """

    size: int
    start: int = 0
    blocks: tuple[int, ...] = ()
    fragment: int = NO_FRAGMENT
    offset: int = 0
    sparse: int = 0


class Listing(NamedTuple):
    """Where a directory's listing lies: bytes, its place in the table, pages for its index: (position, block, name)."""

    size: int
    block: int
    offset: int
    pages: Sequence[tuple[int, int, bytes]] = ()


class Inode(NamedTuple):
    """One inode as it is on disk; see `fstree.Node` for the fields that have the same name.

    size      of a file in bytes, of a target, of a listing
    xattr     number of the xattr set; `xattrs` is the set itself, in the order on disk
    parent    a directory's: number of the inode above it
    start, fragment, offset, sparse   a file's, as in Placement; (start, offset): a directory's listing
    rest      (position, offset) in the inode table of the size words or of the directory index
    indexed   entries of that index
    """

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    number: int
    nlink: int = 1
    size: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattr: int = NO_XATTRS
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    parent: int = 0
    start: int = 0
    fragment: int = NO_FRAGMENT
    offset: int = 0
    sparse: int = 0
    rest: tuple[int, int] = (0, 0)
    indexed: int = 0


_COMMON = struct.Struct("<4H2I")
_DIR = struct.Struct("<4H2I 2I2HI")
_FILE = struct.Struct("<4H2I 4I")
_TWO = struct.Struct("<4H2I 2I")
_ONE = struct.Struct("<4H2I I")
_LDIR = struct.Struct("<4H2I 4I2HI")
_LFILE = struct.Struct("<4H2I 3Q4I")
_THREE = struct.Struct("<4H2I 3I")
_INDEX = struct.Struct("<3I")
_U32 = struct.Struct("<I")

Common = tuple[int, int, int, int, int]
"""(mode, uid's index, gid's index, mtime, number)"""


def encode_directory(common: Common, listing: Listing, *, nlink: int, parent: int, xattr: int = NO_XATTRS) -> bytes:
    """A directory; basic when its listing is below 64 KiB and has neither index nor xattrs."""
    size, block, offset, pages = listing
    if xattr == NO_XATTRS and not pages and size + 3 <= 0xFFFF:
        return _DIR.pack(DIRECTORY, *common, block, nlink, size + 3, offset, parent)
    pages = pages[:0xFFFF]  # look-up goes on from the last one
    kind = DIRECTORY + EXTENDED
    head = _LDIR.pack(kind, *common, nlink, size + 3, block, parent, len(pages), offset, xattr)
    return head + b"".join([_INDEX.pack(at, where, len(name) - 1) + name for at, where, name in pages])


def encode_file(common: Common, placement: Placement, *, nlink: int = 1, xattr: int = NO_XATTRS) -> bytes:
    """A regular file; extended where a basic inode cannot say it."""
    size, start, blocks, fragment, offset, sparse = placement
    if nlink == 1 and xattr == NO_XATTRS and not sparse and start <= 0xFFFFFFFF and size <= 0xFFFFFFFF:
        head = _FILE.pack(REGULAR, *common, start, fragment, offset, size)
    else:
        kind = REGULAR + EXTENDED
        head = _LFILE.pack(kind, *common, start, size, sparse, nlink, fragment, offset, xattr)
    if not blocks:
        return head
    return head + (_U32.pack(blocks[0]) if len(blocks) == 1 else struct.pack(f"<{len(blocks)}I", *blocks))


def encode_symlink(common: Common, target: bytes, *, nlink: int = 1, xattr: int = NO_XATTRS) -> bytes:
    """A symbolic link. InvalidImage for a target that Linux cannot hold."""
    if not 0 < len(target) <= MOST_TARGET or b"\0" in target:
        raise InvalidImage(f"a symbolic link of the image has an impossible target, {target[:80]!r}")
    if xattr == NO_XATTRS:
        return _TWO.pack(SYMLINK, *common, nlink, len(target)) + target
    return _TWO.pack(SYMLINK + EXTENDED, *common, nlink, len(target)) + target + _U32.pack(xattr)


def encode_special(
    kind: int, common: Common, rdev: tuple[int, int] = (0, 0), *, nlink: int = 1, xattr: int = NO_XATTRS
) -> bytes:
    """A device, fifo or socket. InvalidImage for a device number that Linux cannot hold."""
    if kind in (FIFO, SOCKET):
        if xattr == NO_XATTRS:
            return _ONE.pack(kind, *common, nlink)
        return _TWO.pack(kind + EXTENDED, *common, nlink, xattr)
    if kind not in (BLOCK, CHAR):
        raise InvalidImage(f"the tree of the image has a node of an unknown kind, {kind}")
    major, minor = rdev
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise InvalidImage(f"the image has a device {major}:{minor}; Linux has none such")
    number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    if xattr == NO_XATTRS:
        return _TWO.pack(kind, *common, nlink, number)
    return _THREE.pack(kind + EXTENDED, *common, nlink, number, xattr)


def parse_inode(cursor: Cursor, ids: Sequence[int]) -> Inode:
    """The inode at a cursor of the inode table, all fields but `xattrs`. InvalidImage."""
    read = cursor.read
    kind, mode, uid, gid, mtime, number = _COMMON.unpack(read(16))
    if not 1 <= kind <= SOCKET + EXTENDED or not number:
        raise InvalidImage(f"the inode table of the SquashFS image is broken: type {kind}, number {number}")
    if uid >= len(ids) or gid >= len(ids):
        raise InvalidImage(f"inode {number} of the SquashFS image has an owner outside the id table")
    extended = kind > SOCKET
    kind = kind - EXTENDED if extended else kind
    found = Inode(kind, mode & 0o7777, ids[uid], ids[gid], mtime, number)
    if kind == DIRECTORY:
        return _parse_directory(read, cursor, found, extended)
    if kind == REGULAR:
        return _parse_file(read, cursor, found, extended)
    if kind == SYMLINK:
        nlink, length = struct.unpack("<2I", read(8))
        if not 0 < length <= MOST_TARGET + 1:
            raise InvalidImage(f"inode {number} of the SquashFS image has a target of {length} bytes")
        target = read(length)
        found = found._replace(nlink=nlink, size=length, target=target)
        if b"\0" in target:
            raise InvalidImage(f"inode {number} of the SquashFS image has a target with a NUL")
    elif kind in (BLOCK, CHAR):
        nlink, rdev = struct.unpack("<2I", read(8))
        found = found._replace(nlink=nlink, rdev=(rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00))
    else:
        found = found._replace(nlink=_U32.unpack(read(4))[0])
    return found._replace(xattr=_U32.unpack(read(4))[0]) if extended else found


def _parse_directory(read: Callable[[int], bytes], cursor: Cursor, found: Inode, extended: bool) -> Inode:
    xattr, indexed = NO_XATTRS, 0
    if extended:
        nlink, size, start, parent, indexed, offset, xattr = struct.unpack("<4I2HI", read(24))
    else:
        start, nlink, size, offset, parent = struct.unpack("<2I2HI", read(16))
    return found._replace(
        nlink=nlink, size=max(0, size - 3), start=start, offset=offset, parent=parent,
        xattr=xattr, indexed=indexed, rest=cursor.mark(),
    )  # fmt: skip


def _parse_file(read: Callable[[int], bytes], cursor: Cursor, found: Inode, extended: bool) -> Inode:
    nlink, xattr, sparse = 1, NO_XATTRS, 0
    if extended:
        start, size, sparse, nlink, fragment, offset, xattr = struct.unpack("<3Q4I", read(40))
    else:
        start, fragment, offset, size = struct.unpack("<4I", read(16))
    return found._replace(
        nlink=nlink, size=size, start=start, fragment=fragment, offset=offset,
        xattr=xattr, sparse=sparse, rest=cursor.mark(),
    )  # fmt: skip
