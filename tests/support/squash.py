"""Whole SquashFS images for tests: a small placer of data, and trees as values that compare.

`build` takes a tree whose regular nodes have bytes as `data`. `of_tree`, `of_image` and
`of_directory` describe a tree, what our reader sees, and what a kernel or unsquashfs made of it.
"""

import os
import stat
import zlib
from collections.abc import Callable

from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SOCKET, SYMLINK, Node
from hpcc.squashfs.compression import GZIP
from hpcc.squashfs.fragment import Fragment
from hpcc.squashfs.inode import NO_FRAGMENT, STORED, Placement
from hpcc.squashfs.reader import SquashFS, open_squashfs
from hpcc.squashfs.superblock import encode_options
from hpcc.squashfs.writer import encode_tables

Entry = tuple[object, ...]
Tree = dict[bytes, Entry]

KINDS = {
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFBLK: BLOCK,
    stat.S_IFCHR: CHAR,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
}


def build(
    root: Node,
    *,
    block_size: int = 131072,
    compressor: int = GZIP,
    compress: Callable[[bytes], bytes] = zlib.compress,
    fragments: bool = True,
) -> bytes:
    """The image of a tree: tails in fragments (unless told otherwise), blocks of zeros as holes."""
    placer = _Placer(block_size, compressor, compress)
    copies: dict[int, Node] = {}

    def copy(node: Node) -> Node:
        made = copies.get(id(node))
        if made is None:
            made = copies[id(node)] = Node(
                node.kind, node.mode, node.uid, node.gid, node.mtime,
                xattrs=node.xattrs, target=node.target, rdev=node.rdev,
                data=placer.place(node.data, fragments) if node.kind == REGULAR else None,
            )  # fmt: skip
        return made

    top = copy(root)
    todo = [(root, top)]
    while todo:
        node, made = todo.pop()
        for name, child in (node.children or {}).items():
            assert made.children is not None
            made.children[name] = copy(child)
            if child.kind == DIRECTORY:
                todo.append((child, made.children[name]))
    placer.close()
    tables = encode_tables(
        top, placer.fragments, data_end=len(placer.out), compressor=compressor, compress=compress,
        block_size=block_size, mtime=1700000000,
    )  # fmt: skip
    placer.out[: len(tables.head)] = tables.head
    return bytes(placer.out) + tables.tables


class _Placer:
    def __init__(self, block_size: int, compressor: int, compress: Callable[[bytes], bytes]) -> None:
        self.out = bytearray(96 + len(encode_options(compressor)))
        self.fragments: list[Fragment] = []
        self.block_size, self.compress = block_size, compress
        self.tails = bytearray()

    def place(self, data: bytes, fragments: bool) -> Placement:
        size, start, words, sparse = len(data), len(self.out), [], 0
        tail = size % self.block_size if fragments else 0
        for at in range(0, size - tail, self.block_size):
            block = data[at : at + self.block_size]
            if not any(block):
                words.append(0)
                sparse += len(block)
            else:
                words.append(self.write(block))
        if not tail:
            return Placement(size, start if words else 0, tuple(words), NO_FRAGMENT, 0, sparse)
        if len(self.tails) + tail > self.block_size:
            self.close()
        offset = len(self.tails)
        self.tails += data[size - tail :]
        return Placement(size, start if words else 0, tuple(words), len(self.fragments), offset, sparse)

    def write(self, block: bytes) -> int:
        packed = self.compress(block)
        stored = len(packed) >= len(block)
        self.out += block if stored else packed
        return len(block) | STORED if stored else len(packed)

    def close(self) -> None:
        if self.tails:
            start = len(self.out)
            self.fragments.append(Fragment(start, self.write(bytes(self.tails))))
            self.tails.clear()


def opened(image: bytes) -> SquashFS:
    return open_squashfs(lambda offset, length: image[offset : offset + length], len(image))


def of_tree(root: Node) -> Tree:
    """path -> (kind, mode, uid, gid, mtime, names, rdev, target, data, xattrs); the root's path is b""."""
    names: dict[int, int] = {}
    nodes = list(root.walk())
    for _, node in nodes:
        names[id(node)] = names.get(id(node), 0) + 1
    return {
        path: (
            node.kind, node.mode, node.uid, node.gid, node.mtime,
            1 if node.kind == DIRECTORY else names[id(node)],
            node.rdev if node.kind in (BLOCK, CHAR) else (0, 0),
            node.target, node.data if node.kind == REGULAR else b"", node.xattrs,
        )
        for path, node in nodes
    }  # fmt: skip


def of_image(image: bytes) -> Tree:
    """The same, as our reader reads it."""
    found = opened(image)
    return {
        path: (
            inode.kind, inode.mode, inode.uid, inode.gid, inode.mtime,
            1 if inode.kind == DIRECTORY else inode.nlink, inode.rdev,
            inode.target, b"".join(found.read(inode)) if inode.kind == REGULAR else b"", inode.xattrs,
        )
        for path, inode in [(b"", found.root), *found.walk()]
    }  # fmt: skip


def of_directory(top: bytes, *, xattrs: bool = True) -> Tree:
    """The same, of files that exist; needs root to see all. Without xattrs each entry is one shorter."""
    found: Tree = {}
    paths = [top]  # os.walk recurses in Python 3.11
    for path in paths:
        seen = os.lstat(path)
        kind = KINDS[stat.S_IFMT(seen.st_mode)]
        if kind == DIRECTORY:
            paths += [os.path.join(path, name) for name in os.listdir(path)]
        data = b""
        if kind == REGULAR:
            with open(path, "rb") as file:
                data = file.read()
        found[path[len(top) + 1 :]] = entry = (
            kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, int(seen.st_mtime),
            1 if kind == DIRECTORY else seen.st_nlink,
            (os.major(seen.st_rdev), os.minor(seen.st_rdev)) if kind in (BLOCK, CHAR) else (0, 0),
            os.readlink(path) if kind == SYMLINK else b"", data,
        )  # fmt: skip
        if xattrs:
            names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
            values = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
            found[path[len(top) + 1 :]] = (*entry, values)
    return found


def rich_tree() -> Node:
    """A tree with every kind of node that a kernel and unsquashfs should show unchanged."""
    root = Node(DIRECTORY, 0o755, 0, 0, 1600000000)
    assert root.children is not None
    etc = Node(DIRECTORY, 0o2750, 10, 20, 1600000001, xattrs=((b"trusted.overlay.opaque", b"y"), (b"user.dir", b"")))
    empty = Node(DIRECTORY, 0o1777, 1, 70000, 1600000002)
    assert etc.children is not None
    root.children |= {b"etc": etc, b"empty": empty, "ünï\n code".encode(): Node(REGULAR, 0o600, 1, 2, 3, data=b"odd")}
    capability = ((b"security.note", b"\1\0\0\2"), (b"user.long", b"v" * 3000))
    twice = Node(REGULAR, 0o4755, 4000000000, 4000000001, 1600000003, data=b"hard" * 1000, xattrs=capability)
    root.children |= {b"a-first": twice, b"z-last": twice}
    noise = zlib.compress(bytes(range(256)) * 9)
    pattern = b"".join(i.to_bytes(4, "little") for i in range(100000))
    etc.children |= {
        b"z-third": twice,
        b"nothing": Node(REGULAR, 0o644, 0, 0, 0, data=b""),
        b"small": Node(REGULAR, 0o644, 0, 0, 4294967295, data=b"x" * 10),
        b"noise": Node(REGULAR, 0, 0, 0, 5, data=noise),
        b"blocks": Node(REGULAR, 0o444, 0, 0, 6, data=pattern),
        b"exact": Node(REGULAR, 0o444, 0, 0, 6, data=pattern[: 131072 * 2]),
        b"sparse": Node(REGULAR, 0o444, 0, 0, 7, data=bytes(393216) + pattern[:150000] + bytes(262144) + b"end"),
        b"hole": Node(REGULAR, 0o444, 0, 0, 7, data=bytes(131072 * 4)),
        b"link": Node(SYMLINK, 0o777, 5, 6, 1600000004, target=b"../usr/lib"),
        b"far": Node(SYMLINK, 0o777, 5, 6, 1600000004, target=b"/" + b"x" * 4000),
        b"marked": Node(SYMLINK, 0o777, 0, 0, 8, target=b"small", xattrs=((b"trusted.l", b"1"),)),
        b"fifo": Node(FIFO, 0o622, 1, 1, 9),
        b"socket": Node(SOCKET, 0o755, 1, 1, 10),
        b"null": Node(CHAR, 0o666, 0, 0, 11, rdev=(1, 3)),
        b"disk": Node(BLOCK, 0o660, 0, 6, 12, rdev=(259, 70000), xattrs=((b"trusted.d", b"2"),)),
        b"pipe": Node(FIFO, 0o622, 1, 1, 9, xattrs=((b"trusted.f", b"3"),)),
    }
    both = Node(SYMLINK, 0o777, 0, 0, 8, target=b"small")
    etc.children |= {b"s1": both, b"s2": both}
    return root
