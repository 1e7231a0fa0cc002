"""All tables of a SquashFS image, from a tree whose file data lies in place already.

The caller writes data blocks and fragment blocks after the superblock and its options, puts a
`Placement` into each regular node, and appends the tables. Everything is decided by the tree
alone, not by the order in which it was made: names are sorted by byte value, inodes are numbered
level by level, so that the entries of a directory have consecutive numbers and, as far as
possible, one header.
"""

import struct
from collections.abc import Callable, Sequence

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK, Node
from hpcc.records import NamedTuple
from hpcc.squashfs import superblock as sb
from hpcc.squashfs.compression import GZIP, LZ4, XZ, ZSTD
from hpcc.squashfs.directory import check_names, encode_listing
from hpcc.squashfs.fragment import Fragment, encode_fragments
from hpcc.squashfs.ids import collect_ids, encode_ids
from hpcc.squashfs.inode import (
    NO_FRAGMENT,
    NO_XATTRS,
    Common,
    Listing,
    Placement,
    encode_directory,
    encode_file,
    encode_special,
    encode_symlink,
)
from hpcc.squashfs.metadata import BLOCK, MetadataWriter, encode_table
from hpcc.squashfs.xattr import Pairs, encode_xattrs

DEVICE_BLOCK = 4096
"""An image is padded to a multiple of this: loop devices do not see a partial block."""


class Tables(NamedTuple):
    """What the caller writes around the data.

    head         at 0: the superblock, 96 bytes, and the compressor's options where it has some
    tables       at data_end; the padding to DEVICE_BLOCK is included
    bytes_used   length of the image without the padding
    ids          the distinct uids and gids, sorted
    """

    head: bytes
    tables: bytes
    bytes_used: int
    ids: tuple[int, ...]


class _Directory(NamedTuple):
    number: int
    parent: int
    node: Node
    entries: list[tuple[bytes, Node, int]]  # (name, node, its number), sorted


class _Plan(NamedTuple):
    """The tree in the order of its numbers."""

    directories: list[_Directory]
    inodes: int
    nlinks: dict[int, int]  # number -> names of a node that has several
    owners: dict[tuple[int, int], int]  # in the order of their first use
    sets: dict[Pairs, int]  # xattrs -> number of the set


def encode_tables(
    root: Node,
    fragments: Sequence[Fragment],
    *,
    data_end: int,
    compressor: int,
    compress: Callable[[bytes], bytes],
    block_size: int = 131072,
    mtime: int = 0,
) -> Tables:
    """The tables of the image whose data lies between the head and `data_end`.

    Each REGULAR node's `data` is a Placement; a node that stands under several names is one inode.
    `compressor` (GZIP, XZ, ZSTD, LZ4) names what `compress` does; a metadata block that it does not
    make smaller is stored. `mtime` is the image's own.

    InvalidImage for a tree that no file system can hold (names, targets, device numbers, a
    directory under two names), UnsupportedImage for one that SquashFS cannot (more than 65,535
    owners, 4 GiB of inodes), ValueError for placements that contradict themselves. The tree is
    not changed; no recursion.
    """
    if compressor not in (GZIP, XZ, ZSTD, LZ4):
        raise ValueError(f"compressor {compressor}: hpcc writes gzip, xz, zstd and lz4")
    if not sb.LEAST_BLOCK <= block_size <= sb.MOST_BLOCK or block_size & (block_size - 1):
        raise ValueError(f"block size {block_size}: not a power of two from 4 KiB to 1 MiB")
    options = sb.encode_options(compressor)
    if data_end < sb.SIZE + len(options):
        raise ValueError(f"data_end {data_end} lies in the head")
    plan = _plan(root)
    ids = collect_ids(plan.owners)
    try:
        inodes, directories, references = _encode_tree(plan, ids, len(fragments), block_size, compress)
    except struct.error as error:
        raise _misfit(plan, error) from None

    out = bytearray(inodes)
    directory_table = data_end + len(out)
    out += directories
    blocks, index = encode_table(encode_fragments(fragments), data_end + len(out), compress)
    fragment_table = data_end + len(out) + len(blocks)
    out += blocks + index
    blocks, index = encode_table(struct.pack(f"<{plan.inodes}Q", *references[1:]), data_end + len(out), compress)
    export_table = data_end + len(out) + len(blocks)
    out += blocks + index
    blocks, index = encode_table(encode_ids(ids), data_end + len(out), compress)
    id_table = data_end + len(out) + len(blocks)
    out += blocks + index
    xattr_table = sb.ABSENT
    if plan.sets:
        xattrs, head = encode_xattrs(plan.sets, data_end + len(out), compress)
        xattr_table = data_end + len(out) + head
        out += xattrs
    used = data_end + len(out)
    out += bytes(-used % DEVICE_BLOCK)
    head_block = sb.Superblock(
        inodes=plan.inodes,
        mtime=mtime,
        block_size=block_size,
        fragments=len(fragments),
        compressor=compressor,
        flags=sb.FLAG_DUPLICATES
        | sb.FLAG_EXPORT
        | (0 if fragments else sb.FLAG_NO_FRAGMENTS)
        | (sb.FLAG_OPTIONS if options else 0),
        ids=len(ids),
        root=references[1],
        bytes_used=used,
        id_table=id_table,
        xattr_table=xattr_table,
        inode_table=data_end,
        directory_table=directory_table,
        fragment_table=fragment_table,
        export_table=export_table,
    )
    return Tables(head_block.encode() + options, bytes(out), used, ids)


def _plan(root: Node) -> _Plan:
    """Number the tree, level by level, names in byte order."""
    if root.kind != DIRECTORY:
        raise InvalidImage("the root of the image is not a directory")
    numbers = {id(root): 1}
    plan = _Plan([_Directory(1, 0, root, [])], 1, {}, {(root.uid, root.gid): 0}, {})
    directories, nlinks, owners, sets = plan.directories, plan.nlinks, plan.owners, plan.sets
    count = 1
    if root.xattrs:
        sets[root.xattrs] = 0
    for directory in directories:  # grows while it is walked
        children = directory.node.children
        if not children:
            continue
        names = sorted(children)
        check_names(names)
        number, _, _, entries = directory
        for name in names:
            child = children[name]
            known = numbers.get(id(child))
            if known is not None:
                if child.kind == DIRECTORY:
                    raise InvalidImage(f"the directory {name!r} stands in the image under two names")
                nlinks[known] = nlinks.get(known, 1) + 1
                entries.append((name, child, known))
                continue
            count += 1
            numbers[id(child)] = count
            entries.append((name, child, count))
            owners[child.uid, child.gid] = 0
            if child.xattrs and child.xattrs not in sets:
                sets[child.xattrs] = len(sets)
            if child.kind == DIRECTORY:
                directories.append(_Directory(count, number, child, []))
    return plan._replace(inodes=count)


def _encode_tree(
    plan: _Plan, ids: tuple[int, ...], fragments: int, block_size: int, compress: Callable[[bytes], bytes]
) -> tuple[bytearray, bytearray, list[int]]:
    """(inode table, directory table, the inodes' references by number).

    From the last directory to the first, so that a directory's listing is written when all that
    it names has its place; the inodes of one directory lie together.
    """
    inodes, listings = MetadataWriter(compress), MetadataWriter(compress)
    references = [0] * (plan.inodes + 1)
    written = bytearray(plan.inodes + 1)
    done: dict[int, tuple[Listing, int, int]] = {}  # number of a directory -> listing, nlink, parent
    index_of = {number: index for index, number in enumerate(ids)}
    nlinks, sets = plan.nlinks, plan.sets

    def encode(node: Node, number: int) -> bytes:
        mode = node.mode
        if mode > 0o7777:
            raise InvalidImage(f"inode {number} of the image has mode {mode:o}, which is more than permissions")
        common: Common = (mode, index_of[node.uid], index_of[node.gid], node.mtime, number)
        xattr = sets[node.xattrs] if node.xattrs else NO_XATTRS
        kind = node.kind
        if kind == DIRECTORY:
            listing, nlink, parent = done.pop(number)
            return encode_directory(common, listing, nlink=nlink, parent=parent, xattr=xattr)
        nlink = nlinks.get(number, 1)
        if kind == REGULAR:
            _check_placement(node.data, fragments, block_size)
            return encode_file(common, node.data, nlink=nlink, xattr=xattr)
        if kind == SYMLINK:
            return encode_symlink(common, node.target, nlink=nlink, xattr=xattr)
        return encode_special(kind, common, node.rdev, nlink=nlink, xattr=xattr)

    for number, parent, _, entries in reversed(plan.directories):
        subdirectories = 0
        rows = []
        for name, child, own in entries:
            if not written[own]:
                written[own] = 1
                references[own] = inodes.append(encode(child, own))
            kind = child.kind
            subdirectories += kind == DIRECTORY
            rows.append((name, kind, own, references[own]))
        data, index = encode_listing(rows, position := listings.position())
        first = position // BLOCK
        reference = listings.append(data)
        places = [(at, listings.starts[first + (position % BLOCK + at) // BLOCK], name) for at, name in index]
        listing = Listing(len(data), reference >> 16, reference & 0xFFFF, places)
        # As mksquashfs has it, the root's parent is the number that no inode has.
        done[number] = listing, subdirectories + 2, parent or plan.inodes + 1
    references[1] = inodes.append(encode(plan.directories[0].node, 1))
    return inodes.finish(), listings.finish(), references


def _check_placement(placement: Placement, fragments: int, block_size: int) -> None:
    size, _, blocks, fragment, offset, _ = placement
    tail = size % block_size
    if fragment == NO_FRAGMENT:
        right = len(blocks) == -(-size // block_size) and not offset
    else:
        right = len(blocks) == size // block_size and fragment < fragments and 0 < tail <= block_size - offset
    if not right:
        raise ValueError(
            f"a file of {size} bytes cannot have {len(blocks)} blocks of {block_size}"
            f" and fragment {fragment} of {fragments} at {offset}"
        )


def _misfit(plan: _Plan, error: struct.error) -> InvalidImage | UnsupportedImage:
    """What it means that a value did not fit its field on disk."""
    nodes = [(name, node) for directory in plan.directories for name, node, _ in directory.entries]
    for name, node in [(b"/", plan.directories[0].node), *nodes]:
        if not 0 <= node.mtime <= 0xFFFFFFFF or node.mode < 0:
            return InvalidImage(f"{name!r} in the image has mtime {node.mtime} and mode {node.mode}")
    return UnsupportedImage(f"the image does not fit into SquashFS: {error}")
