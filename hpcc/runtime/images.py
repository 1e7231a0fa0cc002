"""Filesystems in files: which of --overlay and image-src=, and which partitions of a SIF, and who may use them when.

    squashfs    a file, or a partition of a SIF     only read
    ext         ext2, ext3 and ext4, likewise       one process writes, or several read

Locks are those of Apptainer, so that the two keep out of each other's way: fcntl's, of the open file (OFD), from the
first to the last byte of the filesystem; to write or to read an ext, none for a squashfs.

    squashfs, little-endian     0 "hsqs"   40 bytes used u64
    ext, from byte 1024 on      4 blocks u32   24 log2 of the block size - 10, u32   56 magic 0xef53 u16   58 state u16
                                96 incompatible features u32   336 upper half of the blocks, with feature 64bit
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from hpcc.errors import InvalidImage, LockTimeout, RuntimeUnavailable, UnsupportedImage, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.binds import Bind, Overlay, parse_overlay
from hpcc.runtime.host import APPTAINER_LIBEXEC, find_program
from hpcc.sif.descriptor import PART_DATA
from hpcc.sif.load import Sif, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpcc.runtime.plan import MountImage
    from hpcc.settings import Settings


_VALID, _ERRORS = 1, 2  # bits of the state
_RECOVER, _64BIT = 0x4, 0x80  # incompatible features
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock, with a 64-bit off_t


class Filesystem(NamedTuple):
    """Where a filesystem lies in a file. unclean: an ext that was not closed, or has a journal to be replayed."""

    kind: str
    offset: int
    size: int
    unclean: bool = False


class Opened(NamedTuple):
    """An image that is open, and locked as it is to be used; `program` mounts it."""

    number: int
    path: str
    fd: int
    filesystem: Filesystem
    readonly: bool
    program: str = ""


# -- what the command line names ---------------------------------------------------------------------------------------


def find_overlays(
    texts: Iterable[str], cwd: str, *, image: str = "", own: Sif | None = None, writable: bool = False
) -> tuple[tuple[Overlay, ...], list[str]]:
    """(layers over the image's root, lowest first; warnings).

    own: of the SIF at `image`, whose overlay partitions come first, only read; writable: but the last ext of them.
    Raises UsageError, InvalidImage, UnsupportedImage.
    """
    found: list[Overlay] = []
    warnings: list[str] = []
    if own is not None:
        what = "--writable" if writable else image
        if writable and not os.access(image, os.W_OK):
            raise UsageError(f"--writable: {image} is not yours to write", hint="chmod u+w, or a copy of your own.")
        found += _partitions(Overlay(image, not writable), own, what, [])
        if writable and all(each.readonly for each in found):
            raise UsageError(
                f"--writable: {image} has no overlay partition to write to",
                hint=f"`hpcc overlay create {image}` adds one. --writable-tmpfs discards what is written, "
                "--overlay DIR keeps it.",
            )
    for text in texts:
        wanted = parse_overlay(text, cwd)
        found += _overlay(wanted, f"--overlay {text}", warnings)
    both = [each.path for each in found if not each.readonly]
    if len(both) > 1:
        raise UsageError(
            f"--overlay: {both[0]} and {both[1]} would both be written to",
            hint=f"One can be. --overlay {both[1]}:ro reads the other.",
        )
    return tuple(found), warnings


def _overlay(wanted: Overlay, what: str, warnings: list[str]) -> list[Overlay]:
    fd = _open(wanted.path, os.O_RDONLY, what)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return [wanted]
        sif = _sif(fd, wanted.path)
        if sif is not None:
            found = _partitions(wanted, sif, what, warnings)
            if not found:
                raise UsageError(
                    f"{what}: this SIF has no overlay partition", hint=f"`hpcc overlay create {wanted.path}` adds one."
                )
            return found
        kind = _filesystem(fd, 0, os.fstat(fd).st_size, what).kind
        return [wanted._replace(kind=kind, readonly=_readonly(wanted, kind, what, warnings))]
    finally:
        os.close(fd)


def _partitions(wanted: Overlay, sif: Sif, what: str, warnings: list[str]) -> list[Overlay]:
    """Of the SIF's overlay partitions at most the last ext can be written to."""
    fd = _open(wanted.path, os.O_RDONLY, what)
    try:
        found = [
            wanted._replace(readonly=True, kind=_filesystem(fd, each.offset, each.size, what).kind, id=each.id)
            for each in sif.overlays()
        ]
    finally:
        os.close(fd)
    last = max((at for at, each in enumerate(found) if each.kind == "ext"), default=None)
    if last is not None and not _readonly(wanted, "ext", what, warnings):
        found[last] = found[last]._replace(readonly=False)
    return found


def _readonly(wanted: Overlay, kind: str, what: str, warnings: list[str]) -> bool:
    if wanted.readonly:
        return True
    if kind == "ext" and os.access(wanted.path, os.W_OK):
        return False
    why = "a squashfs is only read" if kind == "squashfs" else "the file is not yours to write"
    warnings.append(f"{what}: {why}; going on as with :ro")
    return True


def find_bound(binds: Sequence[Bind]) -> tuple[Bind, ...]:
    """Those that name an image with the kind of its filesystem, the object that has it, and whether it is only read."""
    return tuple(_bound(bind) if bind.image else bind for bind in binds)


def _bound(bind: Bind) -> Bind:
    what = f"--bind {bind.image}"
    fd = _open(bind.image, os.O_RDONLY, what)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise UsageError(f"{what}: a directory is no image", hint="Without image-src= and id= it is bound itself.")
        sif = _sif(fd, bind.image)
        id = _data_partition(sif, bind, what) if sif is not None else 0
        kind = _locate(fd, id, what).kind
    finally:
        os.close(fd)
    readonly = bind.readonly or kind == "squashfs" or not os.access(bind.image, os.W_OK)
    return bind._replace(id=id, kind=kind, readonly=readonly)


def _data_partition(sif: Sif, bind: Bind, what: str) -> int:
    hint = f"`hpcc sif list {bind.image}` shows its partitions; id=N names one."
    for each in sif.descriptors:
        if each.partition is not None and (each.id == bind.id if bind.id else each.partition.part == PART_DATA):
            return each.id
    if bind.id:
        raise UsageError(f"{what}: object {bind.id} is no partition of this SIF", hint=hint)
    raise UsageError(f"{what}: this SIF has no data partition", hint=hint)


# -- what lies in a file -----------------------------------------------------------------------------------------------


def _open(path: str, flags: int, what: str) -> int:
    """The file or directory. UsageError where it cannot be opened, InvalidImage for a device, fifo or socket."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"{what}: {error.strerror}", hint="A directory that exists, or a file with a squashfs, ext3 or SIF image."
        ) from None
    if not (stat.S_ISREG(mode := os.fstat(fd).st_mode) or stat.S_ISDIR(mode)):
        os.close(fd)
        raise InvalidImage(f"{what} is neither a file nor a directory")
    return fd


def _sif(fd: int, path: str) -> Sif | None:
    """None for a file that is none."""
    if os.pread(fd, 9, 32) != b"SIF_MAGIC":
        return None
    try:
        return load(lambda offset, length: os.pread(fd, length, offset), os.fstat(fd).st_size)
    except (InvalidImage, UnsupportedImage) as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None


def _locate(fd: int, id: int, what: str) -> Filesystem:
    """The filesystem in an open file, or in the object `id` of a SIF."""
    if not id:
        return _filesystem(fd, 0, os.fstat(fd).st_size, what)
    sif = _sif(fd, what)
    if sif is None:
        raise InvalidImage(f"{what} is not a SIF any more")
    found = sif.by_id(id)
    return _filesystem(fd, found.offset, found.size, what)


def _filesystem(fd: int, offset: int, size: int, what: str) -> Filesystem:
    head = os.pread(fd, min(size, 2048), offset)
    if head[:4] == b"hsqs" and len(head) >= 96:
        kind, used, unclean = "squashfs", struct.unpack_from("<Q", head, 40)[0], False
    elif len(head) == 2048 and head[1080:1082] == b"\x53\xef":
        (low,), (log,) = struct.unpack_from("<I", head, 1024 + 4), struct.unpack_from("<I", head, 1024 + 24)
        (state,), (features,) = struct.unpack_from("<H", head, 1024 + 58), struct.unpack_from("<I", head, 1024 + 96)
        (high,) = struct.unpack_from("<I", head, 1024 + 336)
        kind, used = "ext", (low | (high << 32 if features & _64BIT else 0)) << (10 + min(log, 22))
        unclean = bool(features & _RECOVER or state & _ERRORS or not state & _VALID)
    else:
        raise InvalidImage(
            f"{what} holds no filesystem that hpcc can mount",
            hint="It mounts squashfs, ext3 and ext4. `hpcc overlay create FILE` makes an ext3 to write to.",
        )
    if used > size:
        raise InvalidImage(
            f"{what} is cut short: its {kind} has {used} bytes, of which {size} are there", hint="Copy it again."
        )
    return Filesystem(kind, offset, size, unclean)


# -- to be used --------------------------------------------------------------------------------------------------------


def open_images(ops: Iterable[MountImage], settings: Settings) -> tuple[Opened, ...]:
    """Open and lock them all. LockTimeout where another process uses one in a way that excludes ours."""
    return tuple(_opened(op, settings) for op in ops)


def _opened(op: MountImage, settings: Settings) -> Opened:
    writes = op.kind == "ext" and not op.readonly
    fd = _open(op.path, os.O_RDWR if writes else os.O_RDONLY, op.path)
    try:
        found = _locate(fd, op.id, op.path)
        if found.kind != op.kind:
            raise InvalidImage(f"{op.path} was changed by somebody else meanwhile")
        if op.kind != "ext":
            return Opened(op.number, op.path, fd, found, True)
        program = find_program("fuse2fs", settings, APPTAINER_LIBEXEC)
        if not program:
            raise RuntimeUnavailable(
                f"{op.path}: hpcc mounts ext3 by fuse2fs, which this host does not have",
                hint="It is in the package fuse2fs (Debian, Ubuntu) or e2fsprogs, and comes with Apptainer's own.",
            )
        _lock(fd, found, op, writes=writes)
        found = _locate(fd, op.id, op.path)  # by now nobody else writes to it
        if writes and found.unclean:
            _mend(fd, found, op, settings)
        return Opened(op.number, op.path, fd, found, not writes, program)
    except BaseException:
        os.close(fd)
        raise


def lock(fd: int, start: int, length: int, *, writes: bool) -> bool:
    """Take a lock of Apptainer's kind; False where another process's excludes it. `length` 0: to the end of the file.

    It is the open file's: held as long as anybody has that open. Raises OSError where the filesystem has no locks.
    """
    kind = fcntl.F_WRLCK if writes else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _lock(fd: int, found: Filesystem, op: MountImage, *, writes: bool) -> None:
    """The daemon that serves it inherits the open file, and ends last."""
    try:
        if lock(fd, found.offset, found.size, writes=writes):
            return
    except OSError as error:
        if not writes:
            return
        raise RuntimeUnavailable(
            f"{op.path} cannot be locked: {error.strerror}; two who write at once would destroy it",
            hint="Copy it to a disk of this node, or to a filesystem that has locks; or read it: :ro.",
        ) from None
    raise LockTimeout(
        f"{op.path} is in use: another process {'uses' if writes else 'writes to'} it",
        hint="Who writes to an ext3 image is alone with it: wait for the other run, or use a copy.",
    )


def _mend(fd: int, found: Filesystem, op: MountImage, settings: Settings) -> None:
    """What a boot does before it writes to a filesystem that was not closed: replay its journal, check it.

    Not left to fuse2fs, which replays a journal wrongly (1.47.4: the free blocks are those of before), or crashes
    (1.47.0). e2fsck cannot replay one that does not begin with its file.
    """
    program = find_program("e2fsck", settings, ("/usr/sbin", "/sbin"))
    by_hand = f"`e2fsck -f {op.path}` mends it; or read it: :ro."
    if op.id:
        by_hand = (
            f"`hpcc sif dump {op.id} {op.path} >FILE`, `e2fsck -f FILE`, then --overlay FILE; or `hpcc sif del` and "
            "`add` bring it back."
        )
    if not program:
        raise RuntimeUnavailable(
            f"{op.path} was not closed by who wrote to it last, and e2fsck (package e2fsprogs) is not here to check it",
            hint=by_hand,
        )
    os.set_inheritable(fd, True)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    file = f"/proc/self/fd/{fd}" + (f"?offset={found.offset}" if found.offset else "")
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
    pid = os.posix_spawn(program, [program, "-p", file], {"LC_ALL": "C"}, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.set_inheritable(fd, False)
    os.close(null)
    if status not in (0, 1):  # e2fsck(8): 1 is "errors corrected"
        raise InvalidImage(
            f"{op.path} was not closed by who wrote to it last, and e2fsck does not mend it unasked", hint=by_hand
        )
