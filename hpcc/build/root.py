"""A root filesystem that is being built. Its base is somebody's image, so no link in it is followed out of it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from hpcc.runtime.stage import names_in_root, read_in_root, resolve

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Root:
    """Paths are those inside. Whoever has one is alone with it. OSError where a file stands in the way."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, path: str, limit: int = 8 << 20) -> bytes | None:
        """A regular file; None where there is none."""
        return read_in_root(self.path, path, limit)

    def directories(self, path: str) -> list[str]:
        """Names of the directories in a directory."""
        return names_in_root(self.path, path)

    def names(self, path: str) -> list[str]:
        """All names in a directory, sorted; none where there is none."""
        with self.found(path) as fd:
            try:
                return sorted(os.listdir(f"/proc/self/fd/{fd}")) if fd >= 0 else []
            except NotADirectoryError:
                return []

    @contextmanager
    def found(self, path: str) -> Iterator[int]:
        """A descriptor (O_PATH) of what `path` leads to; -1 where that is nothing."""
        top = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        fd = -1
        try:
            try:
                fd, _, missing = resolve(top, path)
            except OSError:
                missing = [path]
            yield -1 if missing else fd
        finally:
            os.close(top)
            if fd >= 0:
                os.close(fd)

    @contextmanager
    def directory(self, path: str, mode: int = 0o755) -> Iterator[int]:
        """A descriptor (O_PATH) of a directory, made where it is missing. NotADirectoryError."""
        top = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd, _, missing = resolve(top, path)
        finally:
            os.close(top)
        try:
            for name in missing:
                os.mkdir(name, 0o700, dir_fd=fd)
                below = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
                os.chmod(f"/proc/self/fd/{fd}", mode)
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise NotADirectoryError(20, f"{path} in the image is not a directory")
            yield fd
        finally:
            os.close(fd)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file, in place of any file or link of this name."""
        above, _, name = path.rstrip("/").rpartition("/")
        with self.directory(above) as fd:
            remove(fd, name)
            out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
            with open(out, "wb") as file:
                file.write(data)
                os.fchmod(out, mode)

    def unlink(self, path: str) -> None:
        """Idempotent."""
        above, _, name = path.rpartition("/")
        with self.found(above) as fd:
            if fd >= 0:
                remove(fd, name)

    def link(self, path: str, target: str) -> None:
        """A symbolic link, unless something of this name is there."""
        above, _, name = path.rpartition("/")
        with self.directory(above) as fd:
            try:
                os.symlink(target, name, dir_fd=fd)
            except FileExistsError:
                pass


def remove(directory: int, name: str) -> None:
    """What is no directory. Idempotent."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
