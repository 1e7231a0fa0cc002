"""Images on a node's own disk: a shared filesystem is asked once for each node, not by each process of a job.

    <node dir>/staged-v1/<key or identity>    the SIF, kept in a node store (runtime/store.py)

A copy is read again and compared with what was read of the original, before it gets its name. Whoever has opened one
goes on with it when it is removed.
"""

from __future__ import annotations

import os
from zlib import crc32

from hpcc.cache.filesystem import is_local
from hpcc.errors import CacheError, HpccError, IntegrityError
from hpcc.local import Image, open_local
from hpcc.progress import SILENT, Progress
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.enter import node_directory
from hpcc.runtime.store import Limits, obtain
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = 4 << 20
_SPARE = 64 << 20  # bytes that a copy leaves free


def staged(image: Image, settings: Settings, progress: Progress = SILENT) -> Image:
    """The image as `settings.stage` wants it: as it is (shared), or opened from a copy on this node (node, auto).

    The copy is made where it is missing, once for all of the user's processes here. auto: only of what lies on a
    filesystem that other nodes have too, and where it cannot be, the image as it is, with a warning. node: CacheError
    where it cannot be. Directories stay where they are.
    """
    how, rootfs = settings.stage, image.rootfs
    if how == "shared" or rootfs.kind != "squashfs" or (how == "auto" and is_local(image.path)):
        return image
    size = os.fstat(rootfs.fd).st_size
    try:
        directory = node_directory(settings, "staged-v1")
        if how == "auto" and not is_local(directory):
            return image
        limits = Limits(settings.node_days, settings.node_size)
        path = obtain(
            directory,
            image.key or rootfs.identity,
            lambda target: _copy(rootfs.fd, size, target, progress),
            limits,
            size + _SPARE,
            f"copy {image.path} there",
        )
        return open_local(path, name=image.name, cache=image.cache)
    except HpccError as error:
        if how == "node":
            raise
        progress.warning(f"not staged, used from where it is: {error.message}")
        return image


def _copy(source: int, size: int, target: str, progress: Progress) -> None:
    """Copy, have the disk take it, and compare. IntegrityError where what was written is not what was read."""
    progress.stage("Staging", size)
    part = progress.part("", size)
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        checksum = 0
        for data in _pieces(source, size):
            checksum = crc32(data, checksum)
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            part.advance(len(data))
        os.fsync(fd)
        again = 0
        for data in _pieces(fd, size):
            again = crc32(data, again)
        if again != checksum:
            raise IntegrityError(f"{target} is not what was written there", hint="The node's disk may be failing.")
        part.finish()
    finally:
        os.close(fd)
        progress.close()


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        data = os.pread(fd, min(_STEP, size - at), at)
        if not data:
            raise CacheError("the image became shorter while it was copied", hint="Pull or copy it again.")
        yield data
        at += len(data)
