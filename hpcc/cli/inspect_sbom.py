"""What hpcc inspect --sbom shows: the SBOM that the SIF has, else one of its packages."""

import os
from collections.abc import Callable, Iterator

from hpcc.cli import say
from hpcc.cli.sif.stdout import write
from hpcc.errors import UnsupportedImage
from hpcc.fstree import REGULAR
from hpcc.local import Image
from hpcc.sbom import document, find_packages
from hpcc.sif.descriptor import SBOM
from hpcc.squashfs.inode import Inode
from hpcc.squashfs.reader import SquashFS, open_squashfs

MAX_SBOM = 256 << 20


def show_sbom(image: Image) -> int:
    kept = image.sif.find(SBOM) if image.sif is not None else None
    if kept is not None and kept.size <= MAX_SBOM:
        write(os.pread(image.rootfs.fd, kept.size, kept.offset))
        return 0
    rootfs = image.rootfs
    if rootfs.kind != "squashfs":
        raise UnsupportedImage(f"{image.name} is no squashfs, of which alone hpcc lists the packages")
    squashfs = open_squashfs(lambda at, size: os.pread(rootfs.fd, size, rootfs.offset + at), rootfs.size)
    found = find_packages(_files(squashfs))
    for path in found.unread:
        say("WARNING", f"{path} is a database of rpm, which hpcc does not read: its packages are not listed")
    write(document(found, image.reference or os.path.basename(image.path), squashfs.superblock.mtime))
    return 0


def _files(squashfs: SquashFS) -> Iterator[tuple[bytes, Callable[[int], bytes]]]:
    for path, inode in squashfs.walk():
        if inode.kind == REGULAR:
            yield path, _reader(squashfs, inode)


def _reader(squashfs: SquashFS, inode: Inode) -> Callable[[int], bytes]:
    return lambda most: squashfs.read_range(inode, 0, min(inode.size, most))
