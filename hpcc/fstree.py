"""The merged file tree of an image, in memory, with pointers to the data of its files.

Nothing here reads or writes a file. A tree is made of `Node`s; a hard link is one node
that stands under several names. What a regular file's `data` is depends on who made the tree:
the converter puts a pointer into a pack there while it merges layers, and a
`squashfs.Placement` before the tables are written.
"""

from collections.abc import Iterator
from typing import Any

DIRECTORY, REGULAR, SYMLINK, BLOCK, CHAR, FIFO, SOCKET = range(1, 8)
"""Kinds of node, numbered like SquashFS's basic inode types (squashfs/inode.py)."""


class Node:
    """One inode.

    kind      one of the constants above
    mode      permission bits only, 0 to 0o7777
    uid, gid  as the image has them, 0 to 2**32 - 1
    mtime     seconds since the epoch, 0 to 2**32 - 1
    xattrs    ((name, value), …), sorted by name, names with their prefix (b"user.x")
    children  name -> Node; a directory's only, else None
    target    of a symbolic link, else b""
    rdev      (major, minor) of a device, else (0, 0)
    data      of a regular file, see the module
    """

    __slots__ = ("children", "data", "gid", "kind", "mode", "mtime", "rdev", "target", "uid", "xattrs")

    def __init__(
        self,
        kind: int,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        *,
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
        target: bytes = b"",
        rdev: tuple[int, int] = (0, 0),
        data: Any = None,
    ) -> None:
        self.kind, self.mode, self.uid, self.gid, self.mtime = kind, mode, uid, gid, mtime
        self.xattrs, self.target, self.rdev, self.data = xattrs, target, rdev, data
        self.children: dict[bytes, Node] | None = {} if kind == DIRECTORY else None

    def walk(self, prefix: bytes = b"") -> Iterator[tuple[bytes, "Node"]]:
        """Each (path, node) below this one, parents first, names in byte order; hard links each time."""
        yield prefix, self
        # One iterator a level: a list of paths could cost as much as depth times names.
        stack = [(prefix + b"/" if prefix else b"", iter(sorted((self.children or {}).items())))]
        while stack:
            above, entries = stack[-1]
            for name, node in entries:
                path = above + name
                yield path, node
                if node.children:
                    stack.append((path + b"/", iter(sorted(node.children.items()))))
                    break
            else:
                stack.pop()
