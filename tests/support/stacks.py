"""Layers as plain changes, what they merge to by the shortest code that can be right, and random stacks of them.

Nothing of hpcc is used: a tree is a dict from each path to its inode, and every rule is a few lines. A change is named
as in the tar, whiteouts too, so that reading the names is judged as well. Hard links share one inode.
"""

import os
import posixpath
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.layers import archive, other

SOAK = os.environ.get("HPCC_SOAK", "") not in ("", "0")
KINDS = {"file": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4", "directory": b"5", "fifo": b"6"}


class Change(NamedTuple):
    """One member of a layer."""

    name: bytes
    kind: str = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    data: bytes = b""

    def member(self) -> bytes:
        """Its blocks in a tar."""
        xattrs = {b"SCHILY.xattr." + name: value for name, value in self.xattrs}
        return other(
            self.name, KINDS[self.kind], self.data, extended=xattrs, mode=self.mode, uid=self.uid, gid=self.gid,
            mtime=self.mtime, target=self.target, rdev=self.rdev,
        )  # fmt: skip

    @property
    def is_whiteout(self) -> bool:
        return posixpath.basename(clean(self.name)).startswith(b".wh.")


def as_tar(changes: Iterable[Change]) -> bytes:
    return archive(*(change.member() for change in changes))


# -- the merge -----------------------------------------------------------------------------------------------


class Inode:
    """What stands at a path; two paths with the same object are hard links."""

    def __init__(self, change: Change) -> None:
        self.kind, self.target, self.rdev, self.data = change.kind, change.target, change.rdev, change.data
        self.set_attributes(change)

    def set_attributes(self, change: Change) -> None:
        mode = 0o777 if self.kind == "symlink" else change.mode
        self.attributes = (mode, change.uid, change.gid, change.mtime, change.xattrs)


Paths = dict[bytes, Inode]
IMPLIED = Change(b"", "directory", 0o755)


class Invalid(Exception):
    """A stack that no image can have."""


def clean(name: bytes) -> bytes:
    path = posixpath.normpath(b"./" + name)
    if path == b".." or path.startswith(b"../"):
        raise Invalid(f"{name!r} points outside")
    return b"" if path == b"." else path


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def below(tree: Paths, directory: bytes) -> list[bytes]:
    return [path for path in tree if path and (not directory or path.startswith(directory + b"/"))]


def remove(tree: Paths, path: bytes) -> None:
    for each in [*below(tree, path), path]:
        tree.pop(each, None)


def follow(tree: Paths, path: bytes, *, make: bool, barred: Iterable[bytes] = ()) -> bytes | None:
    """Where the directory `path` really is, links followed inside the tree; None where it is nowhere."""
    here, links = b"", 0
    todo = path.split(b"/")
    while todo:
        name = todo.pop(0)
        if name == b"..":
            here = posixpath.dirname(here)
            continue
        if name in (b"", b"."):
            continue
        step = join(here, name)
        if step not in tree and make:
            tree[step] = Inode(IMPLIED)
        kind = tree[step].kind if step in tree else None
        if kind == "directory":
            here = step
        elif kind == "symlink" and links < 40 and step not in barred:
            links += 1
            todo = tree[step].target.split(b"/") + todo
            here = b"" if tree[step].target.startswith(b"/") else here
        else:
            return None
    return here


def merge(layers: Sequence[Sequence[Change]]) -> Paths:
    """The tree of a stack of layers, lowest first; its root is b"". Invalid where there is none."""
    tree: Paths = {b"": Inode(IMPLIED)}
    for changes in layers:
        named = [(*posixpath.split(clean(change.name)), change) for change in changes]
        barred = _links_that_become_directories(tree, named)
        for directory, name, _ in named:
            if name.startswith(b".wh."):
                _hide(tree, directory, name.removeprefix(b".wh."), barred)
        for directory, name, change in named:
            if not name.startswith(b".wh."):
                _put(tree, directory, name, change)
    return tree


def _links_that_become_directories(tree: Paths, named: Sequence[tuple[bytes, bytes, Change]]) -> set[bytes]:
    """Such a directory hides nothing behind the link: it is another one."""
    found = set()
    for directory, name, change in named:
        real = follow(tree, directory, make=False)
        if change.kind == "directory" and name and not name.startswith(b".wh.") and real is not None:
            path = join(real, name)
            if path in tree and tree[path].kind == "symlink":
                found.add(path)
    return found


def _hide(tree: Paths, directory: bytes, hidden: bytes, barred: Iterable[bytes]) -> None:
    if hidden in (b"", b".", b".."):
        raise Invalid("a whiteout of nothing")
    real = follow(tree, directory, make=False, barred=barred)
    if hidden == b".wh..opq" and real is not None:
        for path in below(tree, real):
            tree.pop(path, None)
    elif not hidden.startswith(b".wh.") and real is not None:
        remove(tree, join(real, hidden))


def _put(tree: Paths, directory: bytes, name: bytes, change: Change) -> None:
    if not name:
        if change.kind != "directory":
            raise Invalid("the root is no directory")
        tree[b""].set_attributes(change)
        return
    real = follow(tree, directory, make=True)
    if real is None:
        raise Invalid(f"{directory!r} is no directory")
    path = join(real, name)
    old = tree.get(path)
    if change.kind == "directory" and old is not None and old.kind == "directory":
        old.set_attributes(change)
        return
    new = _linked(tree, clean(change.target)) if change.kind == "hardlink" else Inode(change)
    remove(tree, path)
    tree[path] = new


def _linked(tree: Paths, target: bytes) -> Inode:
    real = follow(tree, posixpath.dirname(target), make=False)
    found = None if real is None else tree.get(join(real, posixpath.basename(target)))
    if found is None or found.kind == "directory":
        raise Invalid(f"a hard link to {target!r}")
    return found


# -- random stacks -------------------------------------------------------------------------------------------

# Directories are mostly a and b, files f and links l, so that paths lead through links, and nothing is certain.
_directories = st.sampled_from([[], [], [b"a"], [b"a"], [b"l"], [b"l"], [b"a", b"a"], [b"a", b"l"]])
_paths, _a_directory, _a_file, _a_link = (
    st.builds(lambda above, name: b"/".join([*above, name]), _directories, st.sampled_from(names))
    for names in (
        [b"a", b"b", b"f", b"l"],
        [b"a", b"a", b"b", b"l", b"f"],
        [b"f", b"f", b"g", b"a", b"l"],
        [b"l", b"l", b"l", b"a", b"f"],
    )
)
_modes = st.sampled_from([0o755, 0o700, 0o644, 0o4755, 0o2770, 0o1777, 0o000])
_owners = st.sampled_from([0, 1, 1000, 70000])
_times = st.integers(1, 5)
_xattrs = st.lists(
    st.tuples(st.sampled_from([b"trusted.x", b"trusted.y", b"security.z"]), st.sampled_from([b"\0\xff", b"v"])),
    unique_by=lambda pair: pair[0], max_size=2,
).map(lambda pairs: tuple(sorted(pairs)))  # fmt: skip
# `..` only before names: behind one that is missing or no directory it has no meaning.
_targets = st.builds(
    lambda up, path: up + path, st.sampled_from([b"", b"./", b"../", b"../", b"/", b"/../../"]), _a_directory
)


def _spelled(path: bytes, how: int) -> bytes:
    """The same path as other tools write it."""
    return (path, b"./" + path, b"/" + path, path.replace(b"/", b"//"), b"c/../" + path, path)[how]


def _change(kind: str, paths: st.SearchStrategy[bytes], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Change]:
    return st.builds(
        lambda path, how, fields: Change(_spelled(path, how), kind, **fields),
        paths,
        st.integers(0, 5),
        st.fixed_dictionaries(more),
    )


_common = {"mode": _modes, "uid": _owners, "gid": _owners, "mtime": _times, "xattrs": _xattrs}
_file = _change("file", _a_file, data=st.binary(max_size=3), **_common)
_directory = _change("directory", _a_directory, **_common)
_link = _change("symlink", _a_link, target=_targets, uid=_owners, mtime=_times)
_rare = st.one_of(
    _change("hardlink", _paths, target=_a_file),
    _change("char", _a_file, rdev=st.just((1, 3)), **_common),
    _change("fifo", _a_file, **_common),
    st.builds(lambda mode, mtime: Change(b"./", "directory", mode, mtime=mtime), _modes, _times),
)
_whiteouts = st.one_of(
    _paths.map(lambda path: Change(join(posixpath.dirname(path), b".wh." + posixpath.basename(path)))),
    _a_directory.map(lambda path: Change(path + b"/.wh..wh..opq")),
    st.just(Change(b".wh..wh..opq")),
)
_one = st.one_of(_file, _directory, _link, _link, _rare, _whiteouts, _whiteouts).map(lambda change: [change])
_replaced = st.builds(
    lambda name, turn: [Change(b"l", "directory", 0o711, mtime=6), Change(b"l/" + name)][::turn],
    st.sampled_from([b".wh..wh..opq", b".wh.f", b".wh.a"]), st.sampled_from([1, -1]),
)  # fmt: skip
_base = st.builds(
    lambda target: [
        *(Change(name, "directory", 0o750, uid=7, mtime=6) for name in (b"a", b"a/a")),
        *(Change(name, mtime=7, data=name) for name in (b"a/f", b"a/a/f", b"b/f", b"f")),
        Change(b"l", "symlink", mtime=8, target=target),
        Change(b"a/a/l", "symlink", mtime=8, target=b"../b"),
    ],
    _targets,
)
layers = st.lists(st.one_of(*[_one] * 6, _replaced), min_size=3, max_size=12).map(lambda parts: list(chain(*parts)))
stacks = st.builds(lambda base, more: [*base, *more], st.lists(_base, max_size=1), st.lists(layers, max_size=3))
"""Up to four layers, the first perhaps with links to directories, in few names, so that changes meet older ones."""


def repaired(stack: Sequence[Sequence[Change]]) -> list[list[Change]]:
    """The stack without the changes that make it invalid."""
    good: list[list[Change]] = []
    for changes in stack:
        good.append([])
        for change in changes:
            good[-1].append(change)
            try:
                merge(good)
            except Invalid:
                good[-1].pop()
    return good


valid_stacks = stacks.map(repaired)
