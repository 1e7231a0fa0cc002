"""The files of an image on disk, to be changed: from a squashfs, or from a directory. In the process of inside.py."""

import os
import shutil
import stat
from functools import partial

from hpcc import fstree
from hpcc.progress import SILENT, Progress
from hpcc.runtime import store
from hpcc.runtime.unpack import make_tree
from hpcc.sitepath import load_site_packages
from hpcc.squashfs.inode import Inode
from hpcc.squashfs.reader import SquashFS, open_squashfs

_SET_ID = stat.S_ISUID | stat.S_ISGID


def unpack_squashfs(
    path: str, offset: int, size: int, target: str, *, owners: bool, progress: Progress = SILENT
) -> list[str]:
    """Make the directory `target` with all that is in a squashfs; the device files that could not be made.

    owners: with the owners of the image, as far as there are ids for them here; without them nothing is set-user-id,
    since on this host it would be the caller's, for whoever reaches it. Raises OSError, InvalidImage.
    """
    load_site_packages()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        squashfs = open_squashfs(lambda at, length: os.pread(fd, length, offset + at), size)
        progress.stage("Unpacking", size)
        return make_tree(squashfs, target, partial(_make, squashfs), partial(_set_attributes, owners=owners))
    finally:
        os.close(fd)


def _make(squashfs: SquashFS, inode: Inode, path: str) -> bool:
    if inode.kind == fstree.REGULAR:
        with open(path, "xb") as file:
            for block in squashfs.read(inode):
                file.write(block) if any(block) else file.seek(len(block), os.SEEK_CUR)
            file.truncate(inode.size)
    elif inode.kind == fstree.SYMLINK:
        os.symlink(inode.target, path)
    elif inode.kind == fstree.FIFO:
        os.mkfifo(path)
    elif inode.kind in (fstree.CHAR, fstree.BLOCK):
        kind = stat.S_IFCHR if inode.kind == fstree.CHAR else stat.S_IFBLK
        try:
            os.mknod(path, 0o600 | kind, os.makedev(*inode.rdev))
        except PermissionError:  # in a user namespace
            return False
    else:
        return False
    return True


def _set_attributes(path: str, inode: Inode, *, owners: bool) -> None:
    if owners:
        try:
            os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
        except OSError:  # there is no id for it here
            pass
    for name, value in inode.xattrs:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError:  # a filesystem without them, or one that is not ours to set
            pass
    if inode.kind != fstree.SYMLINK:
        os.chmod(path, inode.mode if owners else inode.mode & ~_SET_ID)  # behind chown, which takes set-user-id away
    os.utime(path, (inode.mtime, inode.mtime), follow_symlinks=False)


def copy_directory(source: str, target: str, *, owners: bool) -> None:
    """A sandbox as another; links, owners and times as they are, set-user-id as in `unpack_squashfs`. OSError."""
    seen: dict[tuple[int, int], str] = {}

    def copy(path: str, to: str, *, follow_symlinks: bool = True) -> str:
        status = os.lstat(path)
        known = seen.get((status.st_dev, status.st_ino))
        if known is not None:
            os.link(known, to, follow_symlinks=False)
            return to
        if status.st_nlink > 1:
            seen[status.st_dev, status.st_ino] = to
        if stat.S_ISFIFO(status.st_mode):
            os.mkfifo(to, stat.S_IMODE(status.st_mode))
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            shutil.copy2(path, to, follow_symlinks=False)
            if not owners and status.st_mode & _SET_ID and not stat.S_ISLNK(status.st_mode):
                os.chmod(to, stat.S_IMODE(status.st_mode) & ~_SET_ID)
        else:
            return to
        _chown(path, to, owners=owners)
        return to

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    for directory, _, _ in os.walk(source):
        _chown(directory, os.path.join(target, os.path.relpath(directory, source)), owners=owners)


def _chown(path: str, to: str, *, owners: bool) -> None:
    status = os.lstat(path)
    if owners and (status.st_uid or status.st_gid):
        try:
            os.chown(to, status.st_uid, status.st_gid, follow_symlinks=False)
        except OSError:
            return
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(to, stat.S_IMODE(status.st_mode))


def remove_tree(path: str) -> None:
    """Idempotent."""
    if os.path.lexists(path):
        store.remove(path)
