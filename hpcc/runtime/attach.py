"""Filesystems in files, mounted for one run beside its root, and paths in them. One object for one run, then gone.

Always by FUSE, for root too: a kernel is no judge of filesystems that anybody may have made.

    <session>/images/           a tmpfs
      1/ 2/ …                     read-only, unless it is written to; nosuid, nodev
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from hpcc.errors import InvalidImage, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.rootfs import Rootfs, remount, start_squashfs
from hpcc.runtime.stage import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpcc.runtime.ext import ExtImages
    from hpcc.runtime.host import Host
    from hpcc.runtime.images import Opened
    from hpcc.runtime.plan import Point, Upper


class Attached:
    """The images of a run, below `directory`. owner: whose files those of a squashfs shall seem to be, as a user's."""

    def __init__(self, host: Host, directory: str, owner: tuple[int, int] | None) -> None:
        self._host, self._directory, self._owner = host, directory, owner
        self._paths: dict[int, str] = {}  # of the files
        self._ext: ExtImages | None = None
        self._left = False
        kernel.mount("tmpfs", directory, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")

    def mount(self, image: Opened) -> None:
        """Mount it, and close its descriptor. RuntimeUnavailable where the program for it is missing, or fails.

        Afterwards this process may be in another mount namespace.
        """
        target = f"{self._directory}/{image.number}"
        os.mkdir(target)
        if image.filesystem.kind == "squashfs":
            _, offset, size, _ = image.filesystem
            compressor = int.from_bytes(os.pread(image.fd, 2, offset + 20), "little")  # superblock.py
            squashfs = Rootfs("squashfs", image.path, image.fd, offset, size, compressor=compressor)
            daemon = start_squashfs(self._host, squashfs, self._owner, is_layer=True)
            kernel.unshare(kernel.CLONE_NEWNS)  # the daemon stays in the old one, so that it ends with the new one
            daemon.mount(target, readonly=True)
            os.close(image.fd)
        else:
            from hpcc.runtime.ext import ExtImages

            self._ext = self._ext or ExtImages(self._directory)
            self._ext.mount(image, target)
        remount(target, readonly=image.readonly)
        self._paths[image.number] = image.path

    @contextmanager
    def path(self, number: int, path: str) -> Iterator[tuple[str, bool]]:
        """(a path of ours for `path` in an image, links followed as if that were "/"; whether it is a directory).

        Only within the block. UsageError where the image has no such path.
        """
        root = os.open(f"{self._directory}/{number}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd, _, missing = resolve(root, path)
        except OSError as error:
            raise UsageError(f"{path} in {self._paths[number]}: {error.strerror}") from None
        finally:
            os.close(root)
        try:
            if missing:
                raise UsageError(
                    f"{path} does not exist in {self._paths[number]}", hint="image-src=/ binds all that is there."
                )
            yield f"/proc/self/fd/{fd}", stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def settle(self, points: Iterable[Point]) -> tuple[Point, ...]:
        """The same, knowing of those with a source in an image whether that is a directory. UsageError as of `path`."""
        found = []
        for point in points:
            if point.image:
                with self.path(point.image, point.source) as (_, directory):
                    point = point._replace(directory=directory)
            found.append(point)
        return tuple(found)

    def prepare(self, upper: Upper) -> str:
        """The directory with upper/ and work/, or the root where that is the layer. UsageError, InvalidImage."""
        place = f"{self._directory}/{upper.image}"
        if upper.whole:
            return place
        for name in ("upper", "work") if not upper.readonly else ("upper",):
            path = f"{place}/{name}"
            try:
                if not upper.readonly and not os.path.lexists(path):
                    os.mkdir(path, 0o755)
                status = os.lstat(path)
                if not upper.readonly and not os.access(path, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                hint = "`hpcc overlay create` makes one with an upper/ of yours, or of --fakeroot's root."
                if error.errno not in (errno.ENOENT, errno.EACCES):
                    hint = f"`e2fsck -f {upper.path}` says whether it is damaged."
                raise UsageError(f"--overlay {upper.path}: {name}/ in it: {error.strerror}", hint=hint) from None
            if not stat.S_ISDIR(status.st_mode):  # a link would lead out of the image
                raise InvalidImage(f"--overlay {upper.path}: its {name} is no directory")
        return place

    def overlay_options(self) -> str:
        """What fuse-overlayfs needs over an ext image: it asks for ACLs, and fuse2fs's answer is an error to it."""
        if self._ext is None:
            return ""
        with open(self._host.fuse_overlayfs, "rb") as program:  # from 1.8 on; its help does not tell
            return ",noacl" if b"noacl" in program.read() else ""

    def leave(self, stage: str, descriptor: int) -> None:
        """Let go of the mounts below `stage`, in which the descriptor, if any, is: so the payload alone keeps them.

        Not where nothing was written.
        """
        if self._ext is not None and self._ext.written and not self._left:
            self._left = True
            if descriptor >= 0:
                os.close(descriptor)
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.unmount(stage)

    def close(self, stage: str, descriptor: int) -> None:
        """Leave, and wait until all that was written is in the files."""
        self.leave(stage, descriptor)
        if self._ext is not None:
            self._ext.close()

    def forget(self) -> None:
        """In a child: waiting is the parent's."""
        if self._ext is not None:
            self._ext.forget()


def prepare_layers(uppers: Iterable[Upper], images: Attached | None, kept: str) -> tuple[list[str], str]:
    """(directories of the layers that are only read, highest first; where the one that is written to is, else `kept`).

    The latter with its upper/ and work/, made where missing. UsageError, InvalidImage.
    """
    below: list[str] = []
    for upper in uppers:
        if upper.image and images is not None:
            place = images.prepare(upper)
        else:
            place = upper.path
            prepare_directory(upper)
        if upper.readonly:
            below.insert(0, place if upper.whole else f"{place}/upper")
        else:
            kept = place
    return below, kept


def prepare_directory(upper: Upper) -> None:
    """Have a directory of the host with upper/ and work/ to be an overlay. UsageError where that cannot be."""
    path = upper.path
    if ":" in path or "," in path or "\\" in path:
        raise UsageError(f"--overlay {path}: overlays cannot have colons, commas or backslashes in their path")
    try:
        for name in ("upper", "work") if not upper.readonly else ():
            os.makedirs(f"{path}/{name}", exist_ok=True)
        os.stat(f"{path}/upper")
    except OSError as error:
        raise UsageError(
            f"--overlay {path}: {error.strerror}", hint="A directory that exists; one that is :ro has an upper/."
        ) from None
