"""Reading a SquashFS image, lazily and without trust.

What is asked for is read, through bounded caches: some hundred KiB of metadata and a few fragment
blocks. Damage and malice raise InvalidImage; nothing recurses, allocates what a header claims
or runs without end: a walk ends, since no directory may be found twice and all listings together
cannot exceed the directory table.
"""

import struct
from collections.abc import Iterator
from typing import Any

from hpcc.errors import InvalidImage
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK
from hpcc.squashfs.compression import decompressor
from hpcc.squashfs.directory import parse_index, parse_listing
from hpcc.squashfs.extents import Extents
from hpcc.squashfs.fragment import SIZE as FRAGMENT_SIZE
from hpcc.squashfs.fragment import Fragment, parse_fragment
from hpcc.squashfs.ids import SIZE as ID_SIZE
from hpcc.squashfs.ids import parse_ids
from hpcc.squashfs.inode import NO_FRAGMENT, NO_XATTRS, STORED, Inode, Placement, parse_inode
from hpcc.squashfs.metadata import BLOCK, Cursor, MetadataReader, ReadAt, TableReader
from hpcc.squashfs.superblock import ABSENT, SIZE, Superblock
from hpcc.squashfs.xattr import XattrReader

MOST_LINKS = 40  # symbolic links that a look-up follows, as Linux
MOST_PATH = 1 << 16  # bytes of a path that walk yields; PATH_MAX is 4096
HELD_FRAGMENTS = 8
HELD_BLOCKS = 8  # of files, for read_at
HELD_FILES = 64

_WORDS = 1024  # size words read at a time


def open_squashfs(read_at: ReadAt, size: int) -> "SquashFS":
    """The image whose first byte is at offset 0 of `read_at(offset, length)`, and that has `size` bytes.

    `size` may be more than the image uses. Reads the superblock alone. InvalidImage when it is
    none or is cut short; UnsupportedImage for another version or an unreadable compressor.
    """
    return SquashFS(read_at, Superblock.parse(read_at(0, SIZE), size))


class SquashFS:
    """An open image; made by `open_squashfs`. Any method may raise InvalidImage.

    Not for several threads at once: the caches are not guarded.
    """

    __slots__ = (
        "_blocks", "_decompress", "_directories", "_extents", "_fragment_blocks", "_fragments", "_ids", "_inodes",
        "_read_at", "_xattrs", "superblock",
    )  # fmt: skip

    def __init__(self, read_at: ReadAt, superblock: Superblock) -> None:
        head = self.superblock = superblock
        self._read_at = read_at
        unpack = self._decompress = decompressor(head.compressor)
        first, middle, end = head.inode_table, head.directory_table, head.bytes_used
        # Where the directory table ends is not said; it lies before the tables that follow it.
        last = min(x for x in (head.fragment_table, head.export_table, head.id_table) if x != ABSENT and x >= middle)
        self._inodes = MetadataReader(read_at, first, middle, unpack, what="inode table", held=128)
        self._directories = MetadataReader(read_at, middle, last, unpack, what="directory table")
        self._fragments = TableReader(
            read_at, head.fragment_table if head.fragments else end, head.fragments, FRAGMENT_SIZE, unpack,
            first=middle, end=end, what="fragment table",
        )  # fmt: skip
        self._fragment_blocks: dict[int, bytes] = {}
        self._blocks: dict[int, bytes] = {}
        self._extents: dict[tuple[int, int], Extents] = {}
        self._ids: tuple[int, ...] = ()
        self._xattrs: XattrReader | None = None

    def ids(self) -> tuple[int, ...]:
        """The id table: every uid and gid that an inode may have."""
        if not self._ids:
            head = self.superblock
            table = TableReader(
                self._read_at, head.id_table, head.ids, ID_SIZE, self._decompress,
                first=head.directory_table, end=head.bytes_used, what="id table",
            )  # fmt: skip
            self._ids = parse_ids(table.all())
        return self._ids

    def fragments(self) -> tuple[Fragment, ...]:
        """The fragment table, in its order."""
        table = self._fragments.all()
        return tuple(parse_fragment(table[at : at + FRAGMENT_SIZE]) for at in range(0, len(table), FRAGMENT_SIZE))

    def placement(self, inode: Inode) -> Placement:
        """Where the bytes of a regular file lie, as the writer of another image's tables takes it."""
        block_size, tail = self.superblock.block_size, inode.fragment != NO_FRAGMENT
        blocks = inode.size // block_size if tail else -(-inode.size // block_size)
        words = struct.unpack(f"<{blocks}I", Cursor(self._inodes, *inode.rest).read(4 * blocks)) if blocks else ()
        offset = inode.offset if tail else 0
        return Placement(inode.size, inode.start, words, inode.fragment, offset, inode.sparse)

    @property
    def root(self) -> Inode:
        """The root directory."""
        root = self.inode(self.superblock.root)
        if root.kind != DIRECTORY:
            raise InvalidImage("the root of the SquashFS image is not a directory")
        return root

    @property
    def has_xattrs(self) -> bool:
        """Whether any file may have extended attributes."""
        return self.superblock.xattr_table != ABSENT

    def inode(self, ref: int) -> Inode:
        """The inode at a reference, as `children` gives it."""
        found = parse_inode(self._inodes.cursor(ref), self.ids())
        if found.number > self.superblock.inodes:
            raise self._inodes.broken(f"has an inode {found.number} of {self.superblock.inodes}")
        if found.xattr != NO_XATTRS:
            found = found._replace(xattrs=self._xattr_reader().pairs(found.xattr))
        return found

    def children(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        """(name, reference) of each entry of a directory, in byte order of the names, each checked."""
        if inode.kind != DIRECTORY:
            raise NotADirectoryError(f"inode {inode.number} of the SquashFS image is not a directory")
        return self._listing(inode, 0, inode.start)

    def lookup(self, path: bytes, follow: bool = True) -> Inode | None:
        """The inode that `path` names, counted from the image's root; None where there is none.

        Symbolic links on the way are resolved inside the image, `..` stops at its root; `follow` says
        whether a link that the whole path names is, too. None as well after MOST_LINKS links.
        """
        above = [self.root]  # the directories from the root to where the look-up stands
        todo = path.split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if not name or name == b".":
                continue
            if name == b"..":
                if len(above) > 1:
                    above.pop()
                continue
            ref = self.entry(above[-1], name)
            found = None if ref is None else self.inode(ref)
            if found is not None and found.kind == DIRECTORY:
                above.append(found)
                continue
            if found is None or found.kind != SYMLINK or not (follow or todo):
                return None if todo else found
            links += 1
            if links > MOST_LINKS:
                return None
            if found.target.startswith(b"/"):
                del above[1:]
            todo.extend(found.target.split(b"/")[::-1])
        return above[-1]

    def read(self, inode: Inode) -> Iterator[bytes]:
        """The bytes of a regular file, in chunks of at most the block size; holes as zeros."""
        if inode.kind != REGULAR:
            raise IsADirectoryError(f"inode {inode.number} of the SquashFS image is not a regular file")
        block_size = self.superblock.block_size
        blocks, tail = divmod(inode.size, block_size)
        if inode.fragment == NO_FRAGMENT:
            blocks, tail = blocks + (tail > 0), 0
        left, at = inode.size, inode.start
        cursor = Cursor(self._inodes, *inode.rest) if blocks else None
        while cursor and blocks:
            many = min(blocks, _WORDS)
            for word in struct.unpack(f"<{many}I", cursor.read(4 * many)):
                length = min(left, block_size)
                yield self._data(at, word, length, exact=True) if word else bytes(length)
                at += word & ~STORED
                left -= length
            blocks -= many
        if tail:
            yield self._tail(inode)

    def read_range(self, inode: Inode, offset: int, length: int) -> bytes:
        """`length` bytes of a regular file from `offset` on, fewer where it ends."""
        length = min(length, inode.size - offset)
        if length <= 0:
            return b""
        block_size = self.superblock.block_size
        blocks = inode.size // block_size if inode.fragment != NO_FRAGMENT else -(-inode.size // block_size)
        parts = []
        while length:
            number, skip = divmod(offset, block_size)
            block = self._block(inode, number, blocks) if number < blocks else self._tail(inode)
            part = block[skip : skip + length] if skip or length < len(block) else block
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """(path without a leading slash, inode) of all but the root, parents first, names in byte order.

        A file with several names comes once for each. InvalidImage for a directory that is found
        twice, in a loop or not, and for paths beyond MOST_PATH bytes.
        """
        root = self.root
        seen = {self.superblock.root}
        head = self.superblock
        # A block takes 3 bytes of the table at least; see the module on why the sum is limited.
        room = BLOCK * ((self._directories.end - head.directory_table) // 3 + 1) - root.size
        stack = [(b"", self.children(root))]
        while stack:
            prefix, entries = stack[-1]
            for name, ref in entries:
                inode = self.inode(ref)
                path = prefix + name
                if len(path) > MOST_PATH:
                    raise InvalidImage(f"a path of the SquashFS image has more than {MOST_PATH} bytes")
                if inode.kind == DIRECTORY:
                    room -= inode.size
                    if ref in seen or room < 0:
                        raise InvalidImage(f"the directory {path[:200]!r} of the SquashFS image is found twice")
                    seen.add(ref)
                    yield path, inode
                    stack.append((path + b"/", self.children(inode)))
                    break
                yield path, inode
            else:
                stack.pop()

    def _listing(self, inode: Inode, skip: int, block: int) -> Iterator[tuple[bytes, int]]:
        """The entries from byte `skip` of a listing on, which lies in the metadata block at `block`."""
        if inode.size <= skip:
            return iter(())
        table = self._directories
        # Position 0 of the listing is at `offset` of its first block, and blocks have BLOCK bytes.
        offset = (inode.offset + skip) % BLOCK if skip else inode.offset
        return parse_listing(Cursor(table, table.start + block, offset), inode.size - skip)

    def entry(self, inode: Inode, name: bytes) -> int | None:
        """The reference of an entry of a directory, by way of its index where it has one."""
        skip, block = 0, inode.start
        if inode.indexed:
            for at, where, first in parse_index(Cursor(self._inodes, *inode.rest), inode.indexed):
                if first > name:
                    break
                skip, block = at, where
        for found, ref in self._listing(inode, skip, block):
            if found >= name:
                return ref if found == name else None
        return None

    def _data(self, at: int, word: int, most: int, *, exact: bool) -> bytes:
        """The data block at `at`, uncompressed: `most` bytes of it, fewer unless `exact`."""
        length = word & ~STORED
        limit = most if word & STORED else self.superblock.block_size
        if not 0 < length <= limit or at < SIZE or at + length > self.superblock.bytes_used:
            raise InvalidImage(f"a data block of the SquashFS image, {length} bytes at {at}, is impossible")
        data = self._read_at(at, length)
        if len(data) != length:
            raise InvalidImage("the SquashFS image is cut short", hint="pull or copy the image again")
        if not word & STORED:
            data = self._decompress(data, most)
        if exact and len(data) != most:
            raise InvalidImage(f"a data block of the SquashFS image has {len(data)} bytes, not {most}")
        return data

    def _block(self, inode: Inode, number: int, blocks: int) -> bytes:
        """Data block `number` of a file's `blocks`, uncompressed; the last ones used are held."""
        extents = self._extents.get(inode.rest)
        if extents is None:
            extents = Extents(self._inodes, inode.rest, inode.start)
            keep(self._extents, inode.rest, extents, HELD_FILES)
        at, word = extents.block(number, blocks)
        length = min(self.superblock.block_size, inode.size - number * self.superblock.block_size)
        if not word:
            return bytes(length)
        found = self._blocks.pop(at, None)
        if found is None or len(found) != length:
            found = self._data(at, word, length, exact=True)
        keep(self._blocks, at, found, HELD_BLOCKS)
        return found

    def _tail(self, inode: Inode) -> bytes:
        """What a file has in its fragment block."""
        block = self._fragment(inode.fragment)
        tail = inode.size % self.superblock.block_size
        if inode.offset + tail > len(block):
            raise InvalidImage(f"the tail of inode {inode.number} lies outside its fragment block")
        return block[inode.offset : inode.offset + tail]

    def _fragment(self, number: int) -> bytes:
        held = self._fragment_blocks
        found = held.pop(number, None)
        if found is None:
            start, word = parse_fragment(self._fragments.record(number))
            found = self._data(start, word, self.superblock.block_size, exact=False)
        keep(held, number, found, HELD_FRAGMENTS)
        return found

    def _xattr_reader(self) -> XattrReader:
        head = self.superblock
        if head.xattr_table == ABSENT:
            raise self._inodes.broken("names xattrs, and the image has none")
        if self._xattrs is None:
            self._xattrs = XattrReader(
                self._read_at, head.xattr_table, head.bytes_used, head.directory_table, self._decompress
            )
        return self._xattrs


def keep(held: dict[Any, Any], key: object, value: object, most: int) -> None:
    """Add to a cache that keeps the `most` newest; who takes an item out to use it puts it in again by this."""
    if len(held) >= most:
        del held[next(iter(held))]
    held[key] = value
