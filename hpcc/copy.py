"""A cached image as a file of the user's: a reflink where the filesystem can, else a copy. Never a hard link."""

import errno
import fcntl
import os
import secrets

from hpcc.convert import copy_range
from hpcc.errors import CacheError, UsageError, place_hint
from hpcc.local import Image

_FICLONE = 0x40049409  # ioctl_ficlone(2)


def copy_image(image: Image, target: str, *, replace: bool) -> None:
    """Write the image's SIF to `target`, mode 0755 less umask. Atomic: `target` is whole, or as it was.

    Without replace a file that is there stays: UsageError.
    """
    directory, name = os.path.split(os.path.abspath(target))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
        try:
            _clone_or_copy(image.rootfs.fd, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.rename(temporary, target)
        else:
            os.link(temporary, target)  # unlike rename, it does not replace what somebody put there meanwhile
    except FileExistsError:
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.") from None
    except OSError as error:
        raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass


def _clone_or_copy(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        copy_range(source, target, 0, 0, os.fstat(source).st_size)
