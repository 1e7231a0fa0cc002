"""A directory as the root filesystem of a SIF, or as a squashfs by itself. In the process of inside.py.

Owners are the ids that the files have in there; where others than root have no ids, all is root's. Times are cut off
at SOURCE_DATE_EPOCH, if that is set. What was packed before and has not changed since is not compressed again:

    squashfs of a stage   head · data               · tables
    SIF                   objects · head · the same data · blocks of what is new · tables
"""

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hpcc import fstree
from hpcc.blocks import thread_count
from hpcc.compressors import BLOCK_SIZE, Compressor, make_compressor
from hpcc.convert import QUEUE_DEPTH, copy_range
from hpcc.errors import InvalidImage
from hpcc.fstree import Node
from hpcc.pack import DataWriter
from hpcc.progress import SILENT, Progress
from hpcc.records import NamedTuple
from hpcc.sif import create, descriptor
from hpcc.sitepath import load_site_packages
from hpcc.squashfs import superblock
from hpcc.squashfs.fragment import Fragment
from hpcc.squashfs.inode import NO_FRAGMENT, Placement
from hpcc.squashfs.writer import encode_tables

_KINDS = {
    stat.S_IFDIR: fstree.DIRECTORY, stat.S_IFREG: fstree.REGULAR, stat.S_IFLNK: fstree.SYMLINK,
    stat.S_IFBLK: fstree.BLOCK, stat.S_IFCHR: fstree.CHAR, stat.S_IFIFO: fstree.FIFO, stat.S_IFSOCK: fstree.SOCKET,
}  # fmt: skip
_XATTRS = ("user.", "security.capability", "trusted.")
_LATEST = (1 << 32) - 1
_CHANGED, _RUNNING = "was replaced while it was packed", "Is something still running?"


class How(NamedTuple):
    """compression: as the setting. owners: those on disk count. epoch: SOURCE_DATE_EPOCH, -1 where it is not set."""

    compression: str
    owners: bool
    epoch: int = -1


class Known(NamedTuple):
    """What was packed into the squashfs at `path`: (device, inode) -> (ctime, placement)."""

    path: str
    end: int
    fragments: tuple[Fragment, ...]
    files: dict[tuple[int, int], tuple[int, Placement]]


def pack_squashfs(root: str, path: str, how: How, *, progress: Progress = SILENT) -> Known:
    """Write the squashfs of the directory `root` to `path`. Raises OSError, UnsupportedImage."""
    load_site_packages()
    compressor = make_compressor(how.compression)
    with open(path, "w+b") as file:
        writer = _Writer(file.fileno(), 0, compressor)
        _, known = writer.write(root, how, None, progress)
    return known._replace(path=path)


def pack_sif(
    root: str,
    path: str,
    objects: list[tuple[int, str, bytes]],
    architecture: str,
    how: How,
    known: Known | None = None,
    *,
    progress: Progress = SILENT,
) -> None:
    """Write the SIF of the directory `root` to the file `path`, which is there and empty.

    objects: (type, name, bytes) of what stands before the root filesystem. Raises OSError, UnsupportedImage.
    """
    load_site_packages()
    compressor = make_compressor(how.compression)
    extra = descriptor.partition_extra(descriptor.FS_SQUASHFS, descriptor.PART_PRIMARY_SYSTEM, architecture)
    parts = [create.Object(kind, name, len(data)) for kind, name, data in objects]

    def layout(size: int) -> create.Layout:
        return create.layout(
            [*parts, create.Object(descriptor.PARTITION, "rootfs", size, extra, 4096)], arch=architecture
        )

    with open(path, "r+b") as file:
        start = layout(0).offsets[-1]
        size, _ = _Writer(file.fileno(), start, compressor).write(root, how, known, progress)
        made = layout(size)
        _write_at(file.fileno(), 0, made.head)
        for (_, _, data), offset in zip(objects, made.offsets, strict=False):
            _write_at(file.fileno(), offset, data)


class _Writer:
    """A squashfs at `start` of a file."""

    def __init__(self, fd: int, start: int, compressor: Compressor) -> None:
        self._fd, self._start, self._compressor = fd, start, compressor

    def write(self, root: str, how: How, known: Known | None, progress: Progress) -> tuple[int, Known]:
        """(size with the padding, what is in it now)."""
        fragments: list[Fragment] = list(known.fragments) if known else []
        end = superblock.SIZE + len(superblock.encode_options(self._compressor.squashfs_id))
        if known:
            source = os.open(known.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                copy_range(source, self._fd, end, self._start + end, known.end - end)
            finally:
                os.close(source)
            end = known.end
        old, self._end = len(fragments), end
        progress.stage("Converting", 0)
        part = progress.part("", 0)
        files: dict[tuple[int, int], tuple[int, Placement]] = {}
        with ThreadPoolExecutor(thread_count()) as pool:
            writer = DataWriter(
                self._append, self._read, self._truncate, end, self._compressor.compress, pool, QUEUE_DEPTH
            )

            def placed(node: Node, key: tuple[int, int], changed: int, place: Placement) -> None:
                if place.fragment != NO_FRAGMENT:
                    place = place._replace(fragment=place.fragment + old)
                node.data = place
                files[key] = (changed, place)

            tree = _Tree(root, how)
            top = tree.read()
            for node, path, status in tree.files:
                key = (status.st_dev, status.st_ino)
                before = known.files.get(key) if known else None
                if before and before[0] == status.st_ctime_ns and before[1].size == status.st_size:
                    node.data = before[1]
                    continue
                writer.add(
                    status.st_size,
                    _blocks(path, status),
                    partial(placed, node, key, status.st_ctime_ns),
                )
                part.advance(status.st_size)
            writer.finish()
        fragments += [Fragment(each.start, each.word) for each in writer.fragments]
        data_end = writer.position
        tables = encode_tables(
            top,
            fragments,
            data_end=data_end,
            compressor=self._compressor.squashfs_id,
            compress=self._compressor.compress,
            block_size=BLOCK_SIZE,
            mtime=top.mtime,
        )
        os.ftruncate(self._fd, self._start + data_end)
        _write_at(self._fd, self._start + data_end, tables.tables)
        _write_at(self._fd, self._start, tables.head)
        return data_end + len(tables.tables), Known("", data_end, tuple(fragments), files)

    def _append(self, data: bytes) -> None:
        _write_at(self._fd, self._start + self._end, data)
        self._end += len(data)

    def _read(self, position: int, size: int) -> bytes:
        return os.pread(self._fd, size, self._start + position)

    def _truncate(self, position: int) -> None:
        os.ftruncate(self._fd, self._start + position)
        self._end = position


class _Tree:
    """A directory as nodes; `files` are those whose data are to be placed, in order."""

    def __init__(self, root: str, how: How) -> None:
        self._root, self._how = root, how
        self._linked: dict[tuple[int, int], Node] = {}
        self.files: list[tuple[Node, str, os.stat_result]] = []

    def read(self) -> Node:
        status = os.stat(self._root)
        top = self._node(self._root, status)
        todo = [(self._root, top, status)]
        while todo:
            directory, node, seen = todo.pop()
            assert node.children is not None
            fd = _open_same(directory, os.O_DIRECTORY, seen)
            try:
                for entry in sorted(os.scandir(fd), key=lambda each: os.fsencode(each.name)):
                    path, status = os.path.join(directory, entry.name), entry.stat(follow_symlinks=False)
                    child = self._node(path, status)
                    node.children[os.fsencode(entry.name)] = child
                    if child.kind == fstree.DIRECTORY:
                        todo.append((path, child, status))
            finally:
                os.close(fd)
        return top

    def _node(self, path: str, status: os.stat_result) -> Node:
        key = (status.st_dev, status.st_ino)
        if known := self._linked.get(key):
            return known
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        uid, gid = (status.st_uid, status.st_gid) if self._how.owners else (0, 0)
        mtime = max(0, min(int(status.st_mtime), _LATEST))
        node = Node(
            kind,
            stat.S_IMODE(status.st_mode),
            uid,
            gid,
            min(mtime, self._how.epoch) if self._how.epoch >= 0 else mtime,
            xattrs=_xattrs(path),
            target=os.fsencode(os.readlink(path)) if kind == fstree.SYMLINK else b"",
            rdev=(os.major(status.st_rdev), os.minor(status.st_rdev))
            if kind in (fstree.BLOCK, fstree.CHAR)
            else (0, 0),
        )
        if kind == fstree.REGULAR:
            self.files.append((node, path, status))
        if kind != fstree.DIRECTORY and status.st_nlink > 1:
            self._linked[key] = node
        return node


def _xattrs(path: str) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(_XATTRS))
        return tuple((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names)
    except OSError:  # a filesystem without them
        return ()


def _open_same(path: str, flags: int, seen: os.stat_result) -> int:
    """A descriptor of what was seen there. InvalidImage where something else is there now.

    What %post has left running, or whoever owns a sandbox, could put a link to a file of ours outside in its place.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise InvalidImage(f"{path} {_CHANGED}", hint=_RUNNING) from None
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (seen.st_dev, seen.st_ino):
        os.close(fd)
        raise InvalidImage(f"{path} {_CHANGED}", hint=_RUNNING)
    return fd


def _blocks(path: str, seen: os.stat_result) -> Iterator[bytes]:
    with open(_open_same(path, os.O_NOFOLLOW, seen), "rb", buffering=0) as file:
        left = seen.st_size
        while left:
            wanted = min(BLOCK_SIZE, left)
            block = file.read(wanted) or b""
            while block and len(block) < wanted:
                more = file.read(wanted - len(block))
                if not more:
                    break
                block += more
            if len(block) != wanted:
                raise InvalidImage(f"{path} became shorter while it was packed", hint=_RUNNING)
            left -= wanted
            yield block


def _write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
