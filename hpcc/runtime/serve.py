"""Our own FUSE server for SquashFS: what squashfuse does, wherever only /dev/fuse is, and with the caller's ids.

An image never changes, so the kernel is told to remember all that it asked: names, names that do not exist,
attributes, links, listings and pages hold for ever, and opening a file is no question at all. A held root answers a
warm run without waking its server.

A node is an inode's reference in the image, plus 2; the root is node 1. So the server keeps nothing that it could
forget, and any number that comes is read with the reader's distrust: what is damaged is EIO.
"""

import errno
import gc
import os
import stat
from collections.abc import Callable, Iterator
from itertools import chain, islice

from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SOCKET, SYMLINK
from hpcc.runtime import fuse_protocol as fuse
from hpcc.squashfs.inode import Inode
from hpcc.squashfs.reader import SquashFS, keep

_HELD_LISTINGS = 128
_LARGE_LISTING = 1 << 17  # bytes, beyond which a listing is not held: its index finds a name
_HELD_FILES = 256  # inodes of files that are being read
_HELD_WALKS = 16  # listings that somebody stands in the middle of
_TYPES = {
    DIRECTORY: stat.S_IFDIR, REGULAR: stat.S_IFREG, SYMLINK: stat.S_IFLNK, BLOCK: stat.S_IFBLK, CHAR: stat.S_IFCHR,
    FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK,
}  # fmt: skip
_OF_OVERLAYS = (b"user.overlay.", b"trusted.overlay.")

Result = bytes | int | None
"""The result of a request, an errno, or None where no answer is wanted."""


class Server:
    """Answers for one image. owner: (uid, gid) that each file belongs to; None: as the image says.

    is_layer: of an overlay that somebody made as one. Any other image tells no overlay of ours what to do.
    """

    def __init__(self, image: SquashFS, owner: tuple[int, int] | None, *, is_layer: bool = False) -> None:
        self._image, self._owner = image, owner
        self._hidden: tuple[bytes, ...] = () if is_layer else _OF_OVERLAYS
        self._flags = 0
        self._listings: dict[int, dict[bytes, int]] = {}
        self._files: dict[int, Inode] = {}
        self._walks: dict[tuple[int, int], Iterator[tuple[bytes, int]]] = {}
        self._answers: dict[int, Callable[[int, bytes], Result]] = {
            fuse.LOOKUP: self._lookup,
            fuse.FORGET: self._nothing,
            fuse.BATCH_FORGET: self._nothing,
            fuse.GETATTR: self._getattr,
            fuse.READLINK: self._readlink,
            fuse.OPEN: self._open,
            fuse.OPENDIR: self._opendir,
            fuse.READ: self._read,
            fuse.READDIR: self._readdir,
            fuse.READDIRPLUS: self._readdirplus,
            fuse.RELEASE: self._done,
            fuse.RELEASEDIR: self._done,
            fuse.DESTROY: self._done,
            fuse.STATFS: self._statfs,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.INIT: self._init,
            fuse.IOCTL: lambda node, arguments: errno.ENOTTY,
        }

    def answer(self, opcode: int, node: int, arguments: bytes) -> Result:
        """The result of one request. Raises nothing."""
        try:
            return self._answers.get(opcode, _unknown)(node, arguments)
        except OSError as error:
            return error.errno or errno.EIO
        except MemoryError:
            return errno.ENOMEM
        except Exception:  # an image is hostile: whatever it does to the reader, the mount goes on
            return errno.EIO

    def _init(self, node: int, arguments: bytes) -> Result:
        result, self._flags = fuse.init(arguments)
        return result

    def _nothing(self, node: int, arguments: bytes) -> Result:
        return None

    def _done(self, node: int, arguments: bytes) -> Result:
        return b""

    def _inode(self, node: int) -> Inode:
        return self._image.root if node == fuse.ROOT else self._image.inode(node - 2)

    def _attr(self, inode: Inode) -> bytes:
        uid, gid = self._owner or (inode.uid, inode.gid)
        mode = _TYPES[inode.kind] | inode.mode
        block = self._image.superblock.block_size
        return fuse.attributes(inode.number, inode.size, inode.mtime, mode, inode.nlink, uid, gid, inode.rdev, block)

    def _lookup(self, node: int, arguments: bytes) -> Result:
        name = arguments[:-1]  # a NUL ends it
        listing = self._listing(node)
        ref = listing.get(name) if listing is not None else self._image.entry(self._inode(node), name)
        if ref is None:
            return fuse.NO_ENTRY
        return fuse.entry(ref + 2, self._attr(self._image.inode(ref)))

    def _listing(self, node: int) -> dict[bytes, int] | None:
        """name -> reference, of a directory; None where it is too large to hold."""
        found = self._listings.pop(node, None)
        if found is None:
            inode = self._inode(node)
            if inode.kind != DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            if inode.size > _LARGE_LISTING:
                return None
            found = dict(self._image.children(inode))
        keep(self._listings, node, found, _HELD_LISTINGS)
        return found

    def _getattr(self, node: int, arguments: bytes) -> Result:
        return fuse.attr_out(self._attr(self._inode(node)))

    def _readlink(self, node: int, arguments: bytes) -> Result:
        inode = self._inode(node)
        return inode.target if inode.kind == SYMLINK else errno.EINVAL

    def _open(self, node: int, arguments: bytes) -> Result:
        return errno.ENOSYS if self._flags & fuse.NO_OPEN else fuse.opened(fuse.KEEP_CACHE)

    def _opendir(self, node: int, arguments: bytes) -> Result:
        if self._flags & fuse.NO_OPENDIR:
            return errno.ENOSYS
        return fuse.opened(fuse.KEEP_CACHE | fuse.CACHE_DIR)

    def _read(self, node: int, arguments: bytes) -> Result:
        inode = self._files.get(node)
        if inode is None:
            inode = self._inode(node)
            if inode.kind != REGULAR:
                return errno.EISDIR if inode.kind == DIRECTORY else errno.EINVAL
            keep(self._files, node, inode, _HELD_FILES)
        return self._image.read_range(inode, *fuse.read_arguments(arguments))

    def _readdir(self, node: int, arguments: bytes) -> Result:
        return self._list(node, arguments, plus=False)

    def _readdirplus(self, node: int, arguments: bytes) -> Result:
        return self._list(node, arguments, plus=True)

    def _list(self, node: int, arguments: bytes, *, plus: bool) -> bytes:
        """Items from `offset` on, which counts them: 0 is `.`, 1 is `..`, then the entries."""
        offset, room = fuse.read_arguments(arguments)
        inode = self._inode(node)
        out = bytearray()
        for name, kind, number in ((b".", DIRECTORY, inode.number), (b"..", DIRECTORY, inode.parent))[offset:]:
            item = fuse.dirent(number, offset + 1, _TYPES[kind] >> 12, name)
            item = fuse.dirent_plus(item) if plus else item
            if len(out) + len(item) > room:
                return bytes(out)
            out += item
            offset += 1
        walk = self._walks.pop((node, offset), None) or islice(self._entries(node, inode), offset - 2, None)
        for name, ref in walk:
            child = self._image.inode(ref)
            item = fuse.dirent(child.number, offset + 1, _TYPES[child.kind] >> 12, name)
            if plus:
                item = fuse.dirent_plus(item, fuse.entry(ref + 2, self._attr(child)))
            if len(out) + len(item) > room:
                keep(self._walks, (node, offset), chain(((name, ref),), walk), _HELD_WALKS)
                break
            out += item
            offset += 1
        return bytes(out)

    def _entries(self, node: int, inode: Inode) -> Iterator[tuple[bytes, int]]:
        listing = self._listing(node)
        return iter(listing.items()) if listing is not None else self._image.children(inode)

    def _statfs(self, node: int, arguments: bytes) -> Result:
        head = self._image.superblock
        return fuse.statfs(head.bytes_used, head.inodes, head.block_size)

    def _getxattr(self, node: int, arguments: bytes) -> Result:
        if not self._image.has_xattrs:
            return errno.ENOSYS  # then the kernel does not ask again
        name = arguments[8:-1]
        for each, value in self._inode(node).xattrs:
            if each == name and not name.startswith(self._hidden):
                return fuse.xattr_result(value, fuse.xattr_size(arguments))
        return errno.ENODATA

    def _listxattr(self, node: int, arguments: bytes) -> Result:
        if not self._image.has_xattrs:
            return errno.ENOSYS
        names = (name for name, _ in self._inode(node).xattrs if not name.startswith(self._hidden))
        return fuse.xattr_result(b"".join(name + b"\0" for name in names), fuse.xattr_size(arguments))


def _unknown(node: int, arguments: bytes) -> Result:
    return errno.ENOSYS


def serve(fd: int, server: Server) -> None:
    """Answer what comes from the /dev/fuse descriptor until the filesystem is unmounted."""
    gc.disable()
    buffer = bytearray(fuse.REQUEST_SIZE)
    view = memoryview(buffer)
    while True:
        try:
            length = os.readv(fd, [buffer])
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):  # ENOENT: it was taken back
                continue
            return  # ENODEV: unmounted
        _, opcode, unique, node, *_ = fuse.parse_request(buffer)
        result = server.answer(opcode, node, bytes(view[fuse.REQUEST_HEAD : length]))
        if result is None:
            continue
        try:
            if isinstance(result, int):
                os.write(fd, fuse.answer(unique, result))
            else:
                os.writev(fd, (fuse.answer_head(unique, len(result)), result))
        except OSError as error:
            if error.errno != errno.ENOENT:  # the asker was killed meanwhile
                return
