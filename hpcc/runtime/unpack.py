"""A copy of an image on this node's disk, for hosts that can mount neither squashfs nor FUSE.

    unpacked-v1/<identity>/    the tree, kept in a node store (store.py)

As a user each file belongs to the user, so that an overlay can copy it up; devices, and what only root may set, stay
out. One copy serves all jobs of the user on the node; nobody can write to it through a container.
"""

import os
import stat
from collections.abc import Callable
from functools import partial

from hpcc import fstree
from hpcc.errors import CacheError, InvalidImage
from hpcc.runtime.rootfs import Rootfs
from hpcc.runtime.store import Limits, obtain
from hpcc.sitepath import load_site_packages
from hpcc.squashfs.inode import Inode
from hpcc.squashfs.reader import SquashFS, open_squashfs

ROOM = 2.5  # times the image's compressed size must be free


def unpacked_copy(image: Rootfs, directory: str, limits: Limits, *, in_memory: bool = False) -> str:
    """The path of the copy, made where it is missing (store.py).

    in_memory: a tmpfs will do, since somebody said so. Raises CacheError where there is no room, InvalidImage for a
    damaged image.
    """
    if not in_memory and _is_in_memory(directory):
        raise CacheError(
            f"{directory} is in memory, and {image.path} has to be unpacked",
            hint="Name a directory on this node's disk in HPCC_NODE_DIR.",
        )
    room = int(image.size * ROOM)
    return obtain(directory, image.identity, lambda path: _unpack(image, path), limits, room, f"unpack {image.path}")


def _is_in_memory(directory: str) -> bool:
    device = os.stat(directory).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", "rb") as file:
        rows = [row.split() for row in file.read().decode("utf-8", "surrogateescape").splitlines()]
    return any(row[2] == name and row[row.index("-") + 1] in ("tmpfs", "ramfs") for row in rows)


def _unpack(image: Rootfs, target: str) -> None:
    load_site_packages()
    squashfs = open_squashfs(lambda offset, size: os.pread(image.fd, size, image.offset + offset), image.size)
    root = os.geteuid() == 0
    make_tree(squashfs, target, partial(_make, squashfs, root=root), partial(_set_attributes, root=root))


def make_tree(
    squashfs: SquashFS, target: str, make: Callable[[Inode, str], bool], set_attributes: Callable[[str, Inode], None]
) -> list[str]:
    """Make the directory `target` with all that is in the squashfs, hard links as such; what could not be made.

    `make(inode, path)` makes what is no directory, or tells that it cannot. Directories get their attributes last, for
    some forbid writing. Raises what the two raise, OSError, InvalidImage.
    """
    links: dict[int, str] = {}
    directories: list[tuple[str, Inode]] = [(target, squashfs.root)]
    left_out = []
    os.mkdir(target, 0o700)
    for name, inode in squashfs.walk():
        path = os.path.join(target, os.fsdecode(name))
        if inode.kind == fstree.DIRECTORY:
            os.mkdir(path, 0o700)
            directories.append((path, inode))
        elif inode.nlink > 1 and inode.number in links:
            os.link(links[inode.number], path, follow_symlinks=False)
        elif make(inode, path):
            links[inode.number] = path
            set_attributes(path, inode)
        else:
            left_out.append(os.fsdecode(name))
    for path, inode in reversed(directories):
        set_attributes(path, inode)
    return left_out


def _make(squashfs: SquashFS, inode: Inode, path: str, *, root: bool) -> bool:
    if inode.kind == fstree.REGULAR:
        with open(path, "xb") as file:
            for block in squashfs.read(inode):
                file.write(block)
    elif inode.kind == fstree.SYMLINK:
        os.symlink(inode.target, path)
    elif inode.kind == fstree.FIFO:
        os.mkfifo(path)
    elif inode.kind in (fstree.CHAR, fstree.BLOCK) and root:
        kind = stat.S_IFCHR if inode.kind == fstree.CHAR else stat.S_IFBLK
        os.mknod(path, 0o600 | kind, os.makedev(*inode.rdev))
    elif inode.kind not in (fstree.CHAR, fstree.BLOCK, fstree.SOCKET):
        raise InvalidImage(f"{path}: a file of an unknown kind")
    else:
        return False
    return True


def _set_attributes(path: str, inode: Inode, *, root: bool) -> None:
    if root:
        os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
    if inode.kind != fstree.SYMLINK:
        keep = 0o3777 if inode.kind == fstree.DIRECTORY else 0o1777  # no set-user-id programs of the caller's
        os.chmod(path, inode.mode if root else inode.mode & keep)
    os.utime(path, (inode.mtime, inode.mtime), follow_symlinks=False)
