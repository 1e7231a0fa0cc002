"""Files of the user's own: whole, or as they were. Copies are reflinks where the filesystem can, never hard links."""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

from hpcc.convert import copy_range
from hpcc.errors import CacheError, HpccError, InvalidImage, LockTimeout, UsageError, place_hint
from hpcc.local import Image
from hpcc.runtime.images import lock

_FICLONE = 0x40049409  # ioctl_ficlone(2)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what filesystems without symbolic links say
_STEP = 32 << 20  # bytes
_PATIENCE = 600.0  # seconds for which a file's change waits for another's
_XATTRS = ("user.", "system.posix_acl_access")  # others, as Lustre's striping, are the new file's own


def copy_image(image: Image, target: str, *, replace: bool) -> None:
    """Write the image's SIF to `target`, mode 0755 less umask. Atomic: `target` is whole, or as it was.

    Without replace a file that is there stays: UsageError.
    """
    with new_file(target, replace=replace) as file:
        copy_open(image.rootfs.fd, file.fileno())


@contextmanager
def new_file(target: str, *, replace: bool, mode: int = 0o755) -> Iterator[BinaryIO]:
    """An empty file, of this mode less umask, that is `target` once the block has ended well, and gone otherwise.

    Atomic: `target` is whole, or as it was. Without replace a file that is there stays: UsageError. CacheError where
    it cannot be written, for any OSError within the block too.
    """
    temporary = _beside(target)
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "r+b") as file:
            yield file
            file.flush()
            os.fsync(fd)
        if replace:
            os.rename(temporary, target)
        else:
            os.link(temporary, target)  # unlike rename, it does not replace what somebody put there meanwhile
    except HpccError:
        raise
    except FileExistsError:
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.") from None
    except OSError as error:
        raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass


def new_link(source: str, target: str, *, replace: bool) -> None:
    """A symbolic link at `target` that leads to `source`. Atomic. CacheError where it cannot be made.

    FileExistsError without replace, where something is there; OSError, of NO_LINKS, where the filesystem has none.
    """
    source = os.path.abspath(source)
    try:
        if not replace:
            os.symlink(source, target)
            return
        temporary = _beside(target)
        try:
            os.symlink(source, temporary)
            os.rename(temporary, target)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        if error.errno in (errno.EEXIST, *NO_LINKS):
            raise
        raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None


def _beside(target: str) -> str:
    """The name of a temporary in the same directory."""
    directory, name = os.path.split(os.path.abspath(target))
    return os.path.join(directory, f".{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(6)}")


@contextmanager
def changed_file(path: str) -> Iterator[BinaryIO]:
    """A copy of a file, open for reading and writing, that takes its place once the block has ended well.

    Atomic: whoever opens `path` finds the old file or the new one, and who has it open keeps the old one. Mode, owner,
    group, user xattrs and ACL stay; a symbolic link stays one; other hard links keep the old file. Changes wait for
    each other where flock works; where it does not, one that finds another's is given up: LockTimeout.
    CacheError where the file is not this process's to change.
    """
    path = os.path.realpath(path)
    source = _open_alone(path)
    try:
        if _is_written(source):
            raise LockTimeout(
                f"a run writes to {path}, and what it writes would be lost", hint="Try again when it has ended."
            )
        status = os.fstat(source)
        if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
            raise CacheError(
                f"cannot change {path}: its directory takes no new files",
                hint="A changed copy is written beside a file, then takes its place. Change a copy elsewhere.",
            )
        with new_file(path, replace=True, mode=0o600) as file:
            copy_open(source, file.fileno())
            _like(source, status, file.fileno(), path)
            yield file
            file.flush()
            if _identity(os.stat(path)) != _identity(status):
                raise LockTimeout(f"{path} was changed by somebody else meanwhile", hint="Try again.")
    finally:
        os.close(source)


def _open_alone(path: str) -> int:
    """The file, locked if that is possible here."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            hint = "Change a copy of your own, or make the file yours to write: chmod u+w."
            raise CacheError(f"cannot change {path}: {error.strerror}", hint=hint) from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidImage(f"{path} is no regular file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(os.fstat(fd)) == _identity(os.stat(path)):
                return fd
        except BlockingIOError:
            time.sleep(0.05)
        except FileNotFoundError:
            pass  # the next open says so
        except OSError:
            return fd  # no locks here
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # another's, or not what stands under the name any more
    raise LockTimeout(f"somebody else is changing {path}", hint="Try again later.")


def _is_written(fd: int) -> bool:
    """Whether a run with --writable has it, as far as locks tell. Until it is closed no other can."""
    try:
        return not lock(fd, 0, 0, writes=False)
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _like(source: int, status: os.stat_result, target: int, path: str) -> None:
    """Give the new file the old one's owner, mode and attributes."""
    made = os.fstat(target)
    if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.fchown(target, status.st_uid, status.st_gid)
        except OSError:
            raise CacheError(
                f"{path} belongs to user {status.st_uid} and group {status.st_gid}, and a changed copy would not",
                hint="Change a copy of your own.",
            ) from None
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    try:
        for name in os.listxattr(source):
            if name.startswith(_XATTRS):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError:
        pass  # this filesystem has none


def copy_open(source: int, target: int) -> None:
    """All bytes of one open file into another, which is empty; a reflink where that is possible."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        size = os.fstat(source).st_size
        on_disk = []
        with ThreadPoolExecutor(1) as disk:  # what is copied begins its way to the disk while the rest is
            for at in range(0, size, _STEP):
                copy_range(source, target, at, at, min(_STEP, size - at))
                on_disk.append(disk.submit(os.fdatasync, target))
        for each in on_disk:
            each.result()  # the kernel tells an error once, so a later fsync would not
