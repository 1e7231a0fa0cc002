"""What the members of a layer mean, and how layers merge into one tree.

OCI image specification, "Image Layer Filesystem Changeset". The rules that it leaves open are Docker's:

* parents are resolved in the tree as it stands, through symbolic links, and never above its root;
  missing ones are made, 0755 and root's;
* a directory on a directory replaces its attributes, anything else replaces what was there;
* `.wh.x` hides x of the layers below, `.wh..wh..opq` all that they have in that directory, wherever in
  the archive they stand: so whiteouts are applied first, then the entries in their order;
* other names that begin with `.wh..wh.` are aufs's bookkeeping and are dropped, like xattrs of an overlay;
* the metadata of a hard link's header are ignored: the file that it names has its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from hpcc import fstree
from hpcc.errors import InvalidImage
from hpcc.fstree import Node
from hpcc.oci import tar
from hpcc.records import NamedTuple

HARDLINK, WHITEOUT, OPAQUE = 16, 17, 18
"""Kinds of entry beside those of fstree."""

MAX_LINKS = 40  # as Linux
MAX_DETOUR = 512  # names that links put into one path; without it, a member could cost 40 * 2048 steps
MAX_NAME = 255  # as Linux; SquashFS has room for 256
MAX_PATH = 4096  # PATH_MAX: nobody could unpack a longer one
MAX_DEPTH = 512  # of a member's directory, also by way of symbolic links

_KINDS = {
    tar.REGULAR: fstree.REGULAR,
    tar.HARDLINK: HARDLINK,
    tar.SYMLINK: fstree.SYMLINK,
    tar.CHAR: fstree.CHAR,
    tar.BLOCKDEV: fstree.BLOCK,
    tar.DIRECTORY: fstree.DIRECTORY,
    tar.FIFO: fstree.FIFO,
}
_XATTRS = (b"user.", b"trusted.", b"security.")
_OVERLAY_XATTRS = (b"user.overlay.", b"trusted.overlay.")


class Entry(NamedTuple):
    """One change of a layer: plain values, so that a pack can keep it as JSON.

    path    names joined by "/", no leading slash, no "." or ".."; b"" is the root
    kind    one of fstree's or of the constants above
    target  of a symbolic link; of a hard link the path, normalised like `path`
    data    of a regular file whatever the caller put there
    """

    path: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    data: Any = None


def normalise(name: bytes) -> bytes:
    """`name` relative to the root. InvalidImage where it points outside, or cannot be a path."""
    if len(name) <= MAX_NAME and not (name.startswith((b".", b"/")) or b"/." in name or b"//" in name or b"\0" in name):
        return name.removesuffix(b"/")  # as most are
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise InvalidImage(
                    f"member {show(name)} points outside the image", hint="The image is hostile or broken."
                )
            parts.pop()
            continue
        if len(part) > MAX_NAME or b"\0" in part:
            raise InvalidImage(f"member {show(name)} has a name that no filesystem can hold")
        parts.append(part)
    path = b"/".join(parts)
    if len(path) >= MAX_PATH or len(parts) > MAX_DEPTH:
        raise InvalidImage(
            f"member {show(name)} has a path of {len(path)} bytes in {len(parts)} parts",
            hint=f"hpcc takes less than {MAX_PATH} bytes, as Linux, and at most {MAX_DEPTH} parts.",
        )
    return path


def entry(member: tar.Member) -> Entry | None:
    """What `member` means; None for bookkeeping that is no part of the image."""
    path = normalise(member.name)
    directory, _, name = path.rpartition(b"/")
    if name.startswith(b".wh."):
        hidden = name[4:]
        if hidden == b".wh..opq":
            return Entry(directory, OPAQUE)
        if hidden.startswith(b".wh."):
            return None
        if hidden in (b"", b".", b".."):
            raise InvalidImage(f"member {show(member.name)} is a whiteout of nothing")
        return Entry(directory + b"/" + hidden if directory else hidden, WHITEOUT)
    kind = _KINDS[member.type]
    target = member.target
    if kind == HARDLINK:
        target = normalise(target)
    elif kind == fstree.SYMLINK and not 0 < len(target) < MAX_PATH:
        raise InvalidImage(f"symbolic link {show(path)} has a target of {len(target)} bytes")
    xattrs = tuple(
        sorted((k, v) for k, v in member.xattrs.items() if k.startswith(_XATTRS) and not k.startswith(_OVERLAY_XATTRS))
    )
    mode = 0o777 if kind == fstree.SYMLINK else member.mode
    return Entry._make((path, kind, mode, member.uid, member.gid, member.mtime, xattrs, target, member.rdev, None))


def merge(layers: Iterable[Sequence[Entry]]) -> Node:
    """The tree of an image from the entries of its layers, lowest first. Pure; entries are not changed."""
    root = Node(fstree.DIRECTORY, 0o755)
    for entries in layers:
        known: dict[bytes, dict[bytes, Node]] = {}
        whiteouts = [item for item in entries if item.kind in (WHITEOUT, OPAQUE)]
        replaced = _replaced_links(root, entries) if whiteouts else frozenset()
        for item in whiteouts:
            _hide(root, item, replaced)
        for item in entries:
            if item.kind not in (WHITEOUT, OPAQUE):
                _add(root, item, known)
    return root


def show(path: bytes) -> str:
    """`path` for a message: printable, bounded."""
    return ascii(path.decode("utf-8", "surrogateescape"))[1:-1][:200]


def _replaced_links(root: Node, entries: Sequence[Entry]) -> frozenset[tuple[int, bytes]]:
    """(id of the parent, name) of the symbolic links that directories of this layer replace.

    A whiteout inside such a directory must not go through the link and hide what lies elsewhere: overlayfs marks
    each directory that replaces something as opaque.
    """
    found = set()
    for item in entries:
        if item.kind == fstree.DIRECTORY and item.path:
            directory, _, name = item.path.rpartition(b"/")
            parent = _resolve(root, directory, make=False)
            old = parent.children.get(name) if parent is not None and parent.children is not None else None
            if old is not None and old.kind == fstree.SYMLINK:
                found.add((id(parent), name))
    return frozenset(found)


def _hide(root: Node, item: Entry, replaced: frozenset[tuple[int, bytes]]) -> None:
    if item.kind == OPAQUE:
        node = _resolve(root, item.path, make=False, replaced=replaced)
        if node is not None and node.children is not None:
            node.children.clear()
        return
    directory, _, name = item.path.rpartition(b"/")
    parent = _resolve(root, directory, make=False, replaced=replaced)
    if parent is not None and parent.children is not None:
        parent.children.pop(name, None)


def _add(root: Node, item: Entry, known: dict[bytes, dict[bytes, Node]]) -> None:
    """known: path of a directory -> its children, from entries before; for as long as no path leads elsewhere."""
    if not item.path:
        if item.kind != fstree.DIRECTORY:
            raise InvalidImage("a member replaces the root directory by something else")
        _set_attributes(root, item)
        return
    directory, _, name = item.path.rpartition(b"/")
    children = known.get(directory)
    if children is None:
        children = known[directory] = _children(root, directory)
    old = children.get(name)
    if old is not None and old.kind in (fstree.DIRECTORY, fstree.SYMLINK):
        if old.kind == item.kind == fstree.DIRECTORY:
            _set_attributes(old, item)
            return
        known.clear()
    if item.kind == HARDLINK:
        children[name] = _link_target(root, item)
        return
    children[name] = Node(
        item.kind,
        item.mode,
        item.uid,
        item.gid,
        item.mtime,
        xattrs=item.xattrs,
        target=item.target,
        rdev=item.rdev,
        data=item.data,
    )


def _set_attributes(node: Node, item: Entry) -> None:
    node.mode, node.uid, node.gid, node.mtime, node.xattrs = item.mode, item.uid, item.gid, item.mtime, item.xattrs


def _link_target(root: Node, item: Entry) -> Node:
    directory, _, name = item.target.rpartition(b"/")
    parent = _resolve(root, directory, make=False)
    node = parent.children.get(name) if parent is not None and parent.children is not None else None
    if node is None or node.kind == fstree.DIRECTORY:
        what = "is a directory" if node else "is not in the image"
        raise InvalidImage(f"hard link {show(item.path)} to {show(item.target)}, which {what}")
    return node


def _children(root: Node, path: bytes) -> dict[bytes, Node]:
    node = _resolve(root, path, make=True)
    if node is None or node.children is None:
        raise InvalidImage(f"{show(path)} has members below it but is no directory")
    return node.children


def _resolve(
    root: Node, path: bytes, *, make: bool, replaced: frozenset[tuple[int, bytes]] = frozenset()
) -> Node | None:
    """The node at `path`, symbolic links followed, ".." of their targets clamped at the root.

    With make, missing directories are made. None where a name is missing, is no directory, or links turn in circles
    or lead too far, and at a link in `replaced`.
    """
    if not path:
        return root
    above: list[Node] = []
    node = root
    todo = path.split(b"/")[::-1]
    links = detour = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            node = above.pop() if above else root
            continue
        if node.children is None:
            return None
        child = node.children.get(name)
        if child is None:
            if not make:
                return None
            if len(above) >= MAX_DEPTH:
                raise InvalidImage(f"a member below {show(path)} lies more than {MAX_DEPTH} directories deep")
            child = node.children[name] = Node(fstree.DIRECTORY, 0o755)
        if child.kind == fstree.SYMLINK:
            parts = child.target.split(b"/")
            links += 1
            detour += len(parts)
            if links > MAX_LINKS or detour > MAX_DETOUR or (id(node), name) in replaced:
                return None
            if child.target.startswith(b"/"):
                above, node = [], root
            todo.extend(reversed(parts))
            continue
        above.append(node)
        node = child
    return node
