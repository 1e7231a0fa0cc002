"""The superblock: the first 96 bytes of a SquashFS 4.0 image, little-endian.

```
 0 magic "hsqs"     4 inodes u32       8 mtime u32       12 block size u32   16 fragments u32
20 compressor u16  22 log2(block) u16 24 flags u16       26 ids u16          28 major 4, minor 0 u16
32 root inode u64  40 bytes used u64  48 id table u64    56 xattr table u64
64 inode table u64 72 directories u64 80 fragments u64   88 export table u64
```

A table that the image does not have starts at ABSENT. Positions count from the superblock.
"""

import struct

from hpcc.errors import InvalidImage, Truncated, UnsupportedImage
from hpcc.records import NamedTuple
from hpcc.squashfs.compression import LZ4

MAGIC = 0x73717368
SIZE = 96
ABSENT = (1 << 64) - 1

FLAG_NO_FRAGMENTS = 0x0010
FLAG_DUPLICATES = 0x0040
FLAG_EXPORT = 0x0080
FLAG_OPTIONS = 0x0400

LEAST_BLOCK, MOST_BLOCK = 4096, 1 << 20

_LAYOUT = struct.Struct("<5I6H8Q")


def encode_options(compressor: int) -> bytes:
    """What stands between the superblock and the data: nothing, but for lz4, on whose options the kernel insists.

    They are a metadata block, stored: u16 8 | 0x8000, then version 1 u32, flags 0 u32.
    """
    return struct.pack("<HII", 0x8000 | 8, 1, 0) if compressor == LZ4 else b""


class Superblock(NamedTuple):
    """The fields that vary, in their order on disk."""

    inodes: int
    mtime: int
    block_size: int
    fragments: int
    compressor: int
    flags: int
    ids: int
    root: int
    bytes_used: int
    id_table: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int
    export_table: int

    def encode(self) -> bytes:
        """The 96 bytes; struct.error for a value that its field cannot hold."""
        return _LAYOUT.pack(MAGIC, *self[:5], self.block_size.bit_length() - 1, self.flags, self.ids, 4, 0, *self[7:])

    @classmethod
    def parse(cls, data: bytes, size: int) -> "Superblock":
        """Check and take apart the first bytes of an image of `size` bytes.

        InvalidImage unless all tables lie in the image and in the order that every writer uses
        (the kernel insists on it too), Truncated where it ends before they do; UnsupportedImage for another
        version of the format.
        """
        if len(data) < SIZE or size < SIZE:
            raise Truncated(f"the SquashFS image is cut short: {size} bytes do not hold a superblock")
        fields = _LAYOUT.unpack_from(data)
        magic, inodes, mtime, block_size, fragments, compressor, log, flags, ids, major, minor = fields[:11]
        root, used, *tables = fields[11:]
        if magic != MAGIC:
            raise InvalidImage("not a SquashFS image: it does not begin with 'hsqs'")
        if (major, minor) != (4, 0):
            raise UnsupportedImage(f"SquashFS version {major}.{minor}; hpcc reads 4.0")
        if not LEAST_BLOCK <= block_size <= MOST_BLOCK or log > 20 or 1 << log != block_size:
            raise InvalidImage(f"the SquashFS image has an impossible block size, {block_size}")
        if not SIZE < used <= size:
            raise Truncated(
                f"the SquashFS image is cut short: its superblock counts {used} bytes, there are {size}",
                hint="pull or copy the image again",
            )
        found = cls(inodes, mtime, block_size, fragments, compressor, flags, ids, root, used, *tables)
        order = [SIZE, found.inode_table, found.directory_table]
        order += [found.fragment_table] if fragments else []
        order += [start for start in (found.export_table, found.id_table, found.xattr_table) if start != ABSENT]
        if sorted(order) != order or order[-1] > used or found.id_table == ABSENT or not ids or not inodes:
            raise InvalidImage("the tables of the SquashFS image lie outside it or across each other")
        return found
