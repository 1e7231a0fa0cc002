"""The messages of FUSE (linux/fuse.h, protocol 7.23 and newer) that a read-only filesystem needs. Pure.

Each read(2) of /dev/fuse gives one request, each write(2) takes one answer, in the machine's byte order:

```
request   length u32 | opcode u32 | unique u64 | node u64 | uid, gid, pid u32 | extensions u32      then its arguments
answer    length u32 | -errno i32 | unique u64                                                       then the result
attr      ino, size, blocks, atime, mtime, ctime u64 | their nanoseconds 3 u32 | mode, nlink, uid, gid, rdev u32
          | block size u32 | flags u32
entry     node, generation, seconds that the name holds, that the attr holds u64 | nanoseconds 2 u32 | attr
dirent    ino u64 | where the next one is u64 | length u32 | type u32 | name, zeros to a multiple of 8
```

Node 1 is the root. A node 0 in an entry says: there is no such name, and you may remember that.
"""

import errno
import struct

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
GETXATTR, LISTXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 22, 23, 25, 26, 27, 28, 29
INTERRUPT, DESTROY, IOCTL, BATCH_FORGET, READDIRPLUS = 36, 38, 39, 42, 44

ROOT = 1
REQUEST_SIZE = 8192
"""FUSE_MIN_READ_BUFFER: what a read must have room for; a request that only asks is never longer."""

ASYNC_READ, DO_READDIRPLUS, READDIRPLUS_AUTO, NO_OPEN, PARALLEL_DIROPS = 1, 1 << 13, 1 << 14, 1 << 17, 1 << 18
MAX_PAGES, CACHE_SYMLINKS, NO_OPENDIR = 1 << 22, 1 << 23, 1 << 24
KEEP_CACHE, CACHE_DIR = 2, 8  # of an opened file, of an opened directory

_WANTED = ASYNC_READ | DO_READDIRPLUS | READDIRPLUS_AUTO | NO_OPEN | PARALLEL_DIROPS | CACHE_SYMLINKS | NO_OPENDIR
_MINOR = 31  # the newest that this module was written for; the kernel then sends what that one had
_LEAST_MINOR = 23
_FOR_EVER = 1 << 32  # seconds

_REQUEST = struct.Struct("=2I2Q4I")
_ANSWER = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q3I7I")
_ENTRY = struct.Struct("=4Q2I")
_ATTR_OUT = struct.Struct("=Q2I")
_INIT_IN = struct.Struct("=4I")
_INIT_OUT = struct.Struct("=4I2H2I2H8I")
_OPENED = struct.Struct("=Q2I")
_READ = struct.Struct("=2QI")
_STATFS = struct.Struct("=5Q4I24x")
_DIRENT = struct.Struct("=2Q2I")
_XATTR = struct.Struct("=2I")

REQUEST_HEAD = _REQUEST.size
parse_request = _REQUEST.unpack_from
"""(length, opcode, unique, node, uid, gid, pid, extensions) of a buffer."""


def answer(unique: int, result: bytes | int) -> bytes:
    """An answer: the result, or an errno."""
    if isinstance(result, int):
        return _ANSWER.pack(_ANSWER.size, -result, unique)
    return _ANSWER.pack(_ANSWER.size + len(result), 0, unique) + result


def answer_head(unique: int, length: int) -> bytes:
    """What comes before a result of that many bytes, for a writev."""
    return _ANSWER.pack(_ANSWER.size + length, 0, unique)


def init(arguments: bytes) -> tuple[bytes, int]:
    """(the result of INIT, the flags that both sides have). OSError EPROTO for a kernel that is too old."""
    major, minor, readahead, flags = _INIT_IN.unpack_from(arguments)
    if (major, minor) < (7, _LEAST_MINOR):
        raise OSError(errno.EPROTO, f"the kernel speaks FUSE {major}.{minor}")
    flags &= _WANTED
    # Background requests, from where they count as too many, the largest write, the clock's grain in ns.
    out = _INIT_OUT.pack(7, min(minor, _MINOR), readahead, flags, 64, 48, 4096, 1, 0, 0, *[0] * 8)
    return out, flags


def attributes(
    ino: int, size: int, mtime: int, mode: int, nlink: int, uid: int, gid: int, rdev: tuple[int, int], block: int
) -> bytes:
    """An attr. `mode` has the file's type as well; rdev: (major, minor)."""
    major, minor = rdev
    number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    blocks = (size + 511) // 512
    return _ATTR.pack(ino, size, blocks, mtime, mtime, mtime, 0, 0, 0, mode, nlink, uid, gid, number, block, 0)


def attr_out(attr: bytes) -> bytes:
    """The result of GETATTR."""
    return _ATTR_OUT.pack(_FOR_EVER, 0, 0) + attr


def entry(node: int, attr: bytes) -> bytes:
    """The result of LOOKUP."""
    return _ENTRY.pack(node, 0, _FOR_EVER, _FOR_EVER, 0, 0) + attr


NO_ENTRY = _ENTRY.pack(0, 0, _FOR_EVER, 0, 0, 0) + bytes(_ATTR.size)
"""LOOKUP: no such name."""

_PLAIN = bytes(_ENTRY.size + _ATTR.size)


def opened(flags: int) -> bytes:
    """The result of OPEN and OPENDIR."""
    return _OPENED.pack(0, flags, 0)


def read_arguments(arguments: bytes) -> tuple[int, int]:
    """(offset, size) that READ, READDIR and READDIRPLUS ask for."""
    _, offset, size = _READ.unpack_from(arguments)
    return offset, size


def xattr_size(arguments: bytes) -> int:
    """How much room GETXATTR and LISTXATTR have; 0: they ask for the length. GETXATTR's name follows at 8."""
    return int(_XATTR.unpack_from(arguments)[0])


def xattr_result(value: bytes, room: int) -> bytes | int:
    """The result of GETXATTR and LISTXATTR, or ERANGE."""
    if room == 0:
        return _XATTR.pack(len(value), 0)
    return value if len(value) <= room else errno.ERANGE


def dirent(ino: int, following: int, kind: int, name: bytes) -> bytes:
    """An item of READDIR; `kind` as in st_mode >> 12, `following` is the offset that goes on behind it."""
    return _DIRENT.pack(ino, following, len(name), kind) + name + bytes(-len(name) % 8)


def dirent_plus(item: bytes, known: bytes = _PLAIN) -> bytes:
    """An item of READDIRPLUS: the dirent behind what LOOKUP would answer, or nothing for `.` and `..`."""
    return known + item


def statfs(used: int, files: int, block: int) -> bytes:
    """The result of STATFS: a filesystem that is full. used: bytes."""
    return _STATFS.pack(-(-used // block), 0, 0, files, 0, block, 255, block, 0)
