"""Look through a cache and take things out of it, without following a link.

In a group's cache members own directories, and oci/ is everybody's to rename in. So a directory that was looked at may
be a link to somebody's home by the time when a file in it is removed. Here each directory on the way from the cache's
own is opened by its parent's descriptor, never through a link; what is removed is a name in the one that was opened.
No tree is ever removed: a directory goes when it is empty.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from hpcc.cache.layout import MAX_WRITERS, Cache
from hpcc.errors import CacheError, HpccError
from hpcc.records import NamedTuple

# What makes something not there: gone, no directory, a link, another member's private one, a socket or device; ESTALE:
# gone on another node.
# Of the rest (EIO, EMFILE, …) nobody knows what is there, and to take that for nothing would remove what is needed.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENXIO, errno.ENODEV)
DEEPEST = 150  # directories; a repository's name has 255 characters
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Entry(NamedTuple):
    """What is no directory: its path from the cache's directory on, and its lstat."""

    path: str
    status: os.stat_result


Judge = Callable[[Entry], bool]


class Cleared(NamedTuple):
    """What `clear` removed."""

    files: int = 0
    size: int = 0
    directories: int = 0

    def __add__(self, other: object) -> "Cleared":
        if not isinstance(other, Cleared):
            return NotImplemented
        return Cleared(self.files + other.files, self.size + other.size, self.directories + other.directories)


@contextmanager
def opened(cache: Cache, path: str = "") -> Iterator[int]:
    """A descriptor of a directory of the cache, "" for its own. OSError where it is missing, or a link."""
    fd = os.open(cache.root, _DIRECTORY)
    try:
        for part in path.split("/") if path else ():
            if part in ("", ".", ".."):
                raise NotADirectoryError(errno.ENOTDIR, "not a path within a cache", path)
            inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_file(cache: Cache, path: str) -> Iterator[int]:
    """A descriptor of a regular file, for reading, whoever owns it. OSError where it is missing, or something else."""
    head, _, name = path.rpartition("/")
    with opened(cache, head) as directory:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no regular file", path)
            yield fd
        finally:
            os.close(fd)


def files(cache: Cache, top: str, depth: int = 0, most: int | None = None) -> Iterator[Entry]:
    """All but directories in the directory `top` of the cache, and in those `depth` levels below; at most `most`.

    What vanishes meanwhile, or may not be read, is left out. CacheError where the filesystem fails.
    """
    with absence(cache, top), opened(cache, top) as fd:
        yield from islice(_files(fd, top, depth), most)


def records(cache: Cache, directory: str) -> Iterator[Entry]:
    """The entries of a directory with a file for each writer; of so many as a cache looks at."""
    return files(cache, directory, 0, MAX_WRITERS)


def directories(cache: Cache, top: str) -> list[str]:
    """The directories below `top`, by their paths from the cache's directory on; those of a directory after it."""
    found = []
    for name in names(cache, top) if top.count("/") < DEEPEST else ():
        path = f"{top}/{name}"
        with absence(cache, path), opened(cache, path):
            found += [path, *directories(cache, path)]
    return found


def names(cache: Cache, directory: str) -> list[str]:
    """The names in a directory of the cache; none where there is none. CacheError where the filesystem fails."""
    with absence(cache, directory), opened(cache, directory) as fd:
        return sorted(os.listdir(fd))
    return []


def read(cache: Cache, path: str, limit: int) -> bytes | None:
    """The bytes of a regular file, whoever owns it; None where there is none, or it is beyond `limit`.

    CacheError where the filesystem fails.
    """
    with absence(cache, path), opened_file(cache, path) as fd, open(fd, "rb", closefd=False) as file:
        data = file.read(limit + 1)
        return data if len(data) <= limit else None
    return None


def look_through(cache: Cache, directories: Iterable[str]) -> None:
    """CacheError where one of these directories is there and may not be listed: who removes has to see all."""
    for directory in directories:
        if said := closed(cache, directory):
            raise CacheError(
                f"cannot look through {cache.path(directory)}: {said}",
                hint="Who removes things has to see all that there is: the owner of the cache can, or root.",
            )


def closed(cache: Cache, directory: str = "") -> str:
    """Why a directory of the cache, "" for its own, cannot be listed; "" where it can, or is not there."""
    try:
        with opened(cache, directory) as fd:
            os.listdir(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def absence(cache: Cache, path: str) -> Iterator[None]:
    """Pass over what is not there."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, HpccError) and error.errno not in _ABSENT:
            raise CacheError(
                f"cannot read the cache: {cache.path(path)}: {error.strerror}",
                hint="The disk or the file server fails; ask your administrator, or try again.",
            ) from None
        if isinstance(error, HpccError):
            raise


def unlink(cache: Cache, path: str) -> None:
    """Remove a name that is no directory. OSError."""
    head, _, name = path.rpartition("/")
    with opened(cache, head) as directory:
        os.unlink(name, dir_fd=directory)


def remove_own(cache: Cache, directory: str) -> bool:
    """Remove this user's file from a directory with one for each writer; whether there was one. Idempotent.

    CacheError where it may not be removed.
    """
    removed = False
    for path, status in records(cache, directory):
        if status.st_uid == os.getuid():
            try:
                unlink(cache, path)
            except OSError as error:
                raise CacheError(f"cannot remove {cache.path(path)}: {error.strerror}", hint="root can.") from None
            removed = True
    return removed


def clear(
    cache: Cache,
    top: str,
    is_dead: Judge,
    *,
    before: float,
    owner: int | None = None,
    dry_run: bool = False,
) -> Cleared:
    """Remove what `is_dead` says, and directories below `top` that are empty then and had not changed since `before`.

    Only what belongs to `owner`, if that is given. What may not be removed, or vanishes, is passed over.
    """
    try:
        with opened(cache, top) as fd:
            return _clear(fd, top, 0, _Broom(is_dead, before, owner, dry_run))[0]
    except OSError:
        return Cleared()


class _Broom(NamedTuple):
    is_dead: Judge
    before: float
    owner: int | None
    dry_run: bool

    def may(self, status: os.stat_result) -> bool:
        return self.owner is None or status.st_uid == self.owner


def _clear(fd: int, path: str, depth: int, broom: _Broom) -> tuple[Cleared, bool]:
    """What was removed in the directory, and whether it is empty now."""
    cleared, empty = Cleared(), True
    for name, status in _entries(fd):
        below = f"{path}/{name}"
        if stat.S_ISDIR(status.st_mode):
            inner, gone = _clear_directory(fd, name, below, depth, broom, status)
            cleared += inner
        else:
            gone = broom.may(status) and broom.is_dead(Entry(below, status)) and _remove(fd, name, broom.dry_run)
            cleared += Cleared(1, status.st_size) if gone else Cleared()
        empty = empty and gone
    return cleared, empty


def _clear_directory(
    parent: int, name: str, path: str, depth: int, broom: _Broom, status: os.stat_result
) -> tuple[Cleared, bool]:
    if depth >= DEEPEST:
        return Cleared(), False
    try:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError:
        return Cleared(), False
    try:
        cleared, empty = _clear(fd, path, depth + 1, broom)
    finally:
        os.close(fd)
    if not empty or status.st_mtime >= broom.before or not broom.may(status):
        return cleared, False
    if not broom.dry_run:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            return cleared, False
    return cleared + Cleared(directories=1), True


def _remove(fd: int, name: str, dry_run: bool) -> bool:
    if dry_run:
        return True
    try:
        os.unlink(name, dir_fd=fd)
    except OSError:
        return False
    return True


def _entries(fd: int) -> list[tuple[str, os.stat_result]]:
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
    return found


def _files(fd: int, path: str, depth: int) -> Iterator[Entry]:
    for name, status in _entries(fd):
        below = f"{path}/{name}"
        if not stat.S_ISDIR(status.st_mode):
            yield Entry(below, status)
        elif depth > 0:
            try:
                inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                continue
            try:
                yield from _files(inner, below, depth - 1)
            finally:
                os.close(inner)
