"""Paths in a root that is not ours: resolved without leaving it, and mount points for what it lacks.

An image may hold any symbolic link, and a directory that others write to may change under our hands. So each
component is opened relative to the one before, never followed by the kernel, and what is mounted on is the descriptor
that was found, not a path.
"""

from __future__ import annotations

import errno
import os
import stat

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpcc.runtime.plan import Point

_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40


def resolve(root: int, path: str) -> tuple[int, list[str], list[str]]:
    """(descriptor of the last component that exists, the components that lead to it, the missing ones).

    Links are followed as if `root` were "/". NotADirectoryError where a file stands in the way.
    The descriptor (O_PATH) is the caller's to close.
    """
    fds = [os.dup(root)]
    names: list[str] = []
    todo = [part for part in path.split("/") if part][::-1]
    links = 0
    try:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if names:
                    names.pop()
                    os.close(fds.pop())
                continue
            try:
                fd = os.open(name, _WALK, dir_fd=fds[-1])
            except FileNotFoundError:
                missing = [name, *[part for part in todo[::-1] if part not in ("", ".")]]
                if ".." in missing:
                    raise
                return fds.pop(), names, missing
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                os.close(fd)
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(name, dir_fd=fds[-1])
                if target.startswith("/"):
                    for old in fds[1:]:
                        os.close(old)
                    del fds[1:], names[:]
                todo.extend(target.split("/")[::-1])
                continue
            fds.append(fd)
            names.append(name)
        return fds.pop(), names, []
    finally:
        for fd in fds:
            os.close(fd)


def make_points(root: int, layer: str, points: Iterable[Point]) -> bool:
    """Make in the directory `layer` what the image `root` lacks of `points`; whether that was anything.

    `layer` then goes on top of the image: its directories merge with the image's, of which they take the modes.
    Points whose source does not exist are left out.
    """
    made = False
    for path, is_directory, source, *_ in points:
        if is_directory is None:
            try:
                is_directory = stat.S_ISDIR(os.stat(source).st_mode)
            except OSError:
                continue
        try:
            fd, names, missing = resolve(root, path)
        except OSError:
            continue  # a file or a loop of links stands in the way: what mounts there will say so
        os.close(fd)
        if not missing:
            continue
        made = True
        at = root
        here = layer
        opened = []
        for name in names:
            at = os.open(name, _WALK, dir_fd=at)
            opened.append(at)
            here = os.path.join(here, name)
            _make_directory(here, stat.S_IMODE(os.fstat(at).st_mode) & 0o1777 | 0o700)
        for fd in opened:
            os.close(fd)
        for name in missing[:-1]:
            here = os.path.join(here, name)
            _make_directory(here, 0o755)
        here = os.path.join(here, missing[-1])
        if is_directory:
            _make_directory(here, 0o755)
        elif not os.path.lexists(here):
            os.close(os.open(here, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    return made


def _make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, mode)


def read_in_root(root: str, path: str, limit: int = 1 << 20) -> bytes | None:
    """A regular file below the directory `root`, links followed as if that were "/"; None where there is none."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd, _, missing = resolve(top, path)
    except OSError:
        return None
    finally:
        os.close(top)
    try:
        if missing or not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return file.read(limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def names_in_root(root: str, path: str) -> list[str]:
    """The directories in a directory below the directory `root`, links followed as if that were "/", but not those in
    it; none where there is none."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd, _, missing = resolve(top, path)
    except OSError:
        return []
    finally:
        os.close(top)
    try:
        if missing:
            return []
        with os.scandir(f"/proc/self/fd/{fd}") as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    finally:
        os.close(fd)
