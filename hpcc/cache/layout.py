"""Where things lie in a cache, and how they are opened and published.

    DIR/
      oci/             OCI image layout: oci-layout, index.json, blobs/sha256/<hex>
      refs/<registry>/<repository>/_tags/<tag>/<uid>
      packs-v1/<diff id>-<converter id>
      sif-v1/<key>.sif, or <key>.<uid>.sif where that name is taken by somebody who is not trusted
      uses/<key>/<uid>
      limits/<registry>/<who>/<uid>
      runs/<run>/<hash of the tag>     in the private tier
      locks/  tmp/  trash/

A directory that this module makes is 0700; in a group's cache, whose own directory has group write permission and the
sticky bit, it is 3770, and locks/ and oci/ 2770. Objects are 0444 and never change. To publish is to write a
private temporary in tmp/, flush it to the disk, and rename it: whoever opens a name finds it whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from hpcc.cache.trust import Policy
from hpcc.errors import CacheError, HpccError
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


SHARED = stat.S_ISVTX | stat.S_IWGRP
COPY = 1 << 20
MAX_WRITERS = 10_000  # files in a directory that are looked at
TRIES = 10  # to publish while somebody removes temporaries and directories: in a storm of that, three were too few
USE_INTERVAL = 3600.0  # seconds between two touches of a use


class Cache:
    """One tier. Nothing is made on disk until something is written."""

    __slots__ = ("policy", "root")

    def __init__(self, root: str, users: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> None:
        self.root = root
        self.policy = Policy(root, users, groups)

    # Names

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def blob(self, algorithm: str, hexadecimal: str) -> str:
        return self.path("oci/blobs", algorithm, hexadecimal)

    def pack(self, name: str) -> str:
        return self.path("packs-v1", name)

    def sif(self, key: str) -> str:
        return self.path("sif-v1", f"{key}.sif")

    def limit(self, registry: str, who: str) -> str:
        """The directory of what is known of an account's quota, one file per writer."""
        return self.path("limits", registry, who)

    def run(self, run: str) -> str:
        """The directory of what tags mean in one of this user's runs. In the private tier."""
        return self.path("runs", run)

    def tag(self, name: str, tag: str) -> str:
        """The directory of a tag's refs, one file per writer; `name` is registry/repository."""
        return self.path("refs", name, "_tags", tag)

    # Reading

    def open(self, path: str) -> int | None:
        """A descriptor of the object at `path`, or in this user's slot for it; None where there is none to trust."""
        return next(self.open_each(path), None)

    def open_each(self, path: str) -> Iterator[int]:
        """Descriptors of what may stand for the object at `path`, one after the other; the caller's to close."""
        for candidate in (path, own_slot(path)):
            try:
                fd = os.open(candidate, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue  # also ESTALE and EACCES: an object may vanish at any time, and that is a miss
            if self.policy.trusts(os.fstat(fd)):
                yield fd
            else:
                os.close(fd)

    def read(self, path: str, limit: int) -> bytes | None:
        """The bytes of a small object that is trusted; None where there is none, or it is beyond `limit`."""
        fd = self.open(path)
        if fd is None:
            return None
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    def read_writers(self, directory: str, limit: int) -> Iterator[bytes]:
        """The bytes of each `<uid>` file in a directory where everybody has one; those of trusted owners."""
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry, _ in zip(entries, range(MAX_WRITERS), strict=False)]
        except OSError:
            return
        for uid in names:
            data = self.read(os.path.join(directory, uid), limit) if uid.isdigit() else None
            if data is not None:
                yield data

    # Writing

    def is_shared(self) -> bool:
        """Whether a group writes here. OSError where there is no directory yet."""
        return os.stat(self.root).st_mode & SHARED == SHARED

    def make_directory(self, *parts: str) -> str:
        """The directory, made where it is missing, with the modes of the module's docstring. Idempotent.

        CacheError for a link on the way: a member could have this user's things written to another place of his.
        What somebody removes meanwhile is made again.
        """
        with explained(self.path(*parts)):
            for tries in range(TRIES):
                try:
                    return self._make_directory(*parts)
                except FileNotFoundError:
                    if tries == TRIES - 1:
                        raise
        raise AssertionError

    def _make_directory(self, *parts: str) -> str:
        path = self.root
        if not os.path.isdir(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _mkdir(path, 0o700)
        shared = self.is_shared()
        for part in "/".join(parts).split("/"):
            path = os.path.join(path, part)
            if os.path.islink(path):
                hint = "Its owner removes it, or the cache's."
                raise CacheError(f"{path} is a link, and a cache has none", hint=hint)
            if not os.path.isdir(path):
                unsticky = path in (self.path("locks"), self.path("oci"))
                _mkdir(path, (0o2770 if unsticky else 0o3770) if shared else 0o700)
        return path

    @contextmanager
    def temporary(self) -> Iterator[BinaryIO]:
        """A new private file in tmp/, open for reading and writing; gone at the end unless it was published."""
        from hpcc.cache.temporary import new_name

        path = os.path.join(self.make_directory("tmp"), new_name())
        with explained(path):
            try:
                file = open(path, "x+b", opener=open_private)
            except FileNotFoundError:  # the directory was purged in this moment
                self.make_directory("tmp")
                file = open(path, "x+b", opener=open_private)
        try:
            with file, explained(path):
                yield file
        finally:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def publish(self, file: BinaryIO, path: str, *, mode: int = 0o444, beside: bool = False) -> str:
        """Give a temporary of `temporary` its name. Atomic. Returns the name that it got.

        An object that is there already and trusted stays, except one's own, which is replaced. A name that is
        taken by somebody who is not trusted, or with `beside` by anybody else: a slot of one's own beside it. A
        temporary, or a directory, that somebody removed meanwhile, as scratch filesystems are purged, is made again.
        """
        with explained(path):
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            source = file.name
            for tries in range(TRIES):
                try:
                    return self._rename(source, path, beside=beside)
                except FileNotFoundError:
                    if tries == TRIES - 1:
                        raise
                    source = self._copy_again(file.fileno(), mode)
            raise AssertionError

    def _rename(self, source: str, path: str, *, beside: bool) -> str:
        directory = os.path.dirname(path)
        self.make_directory(os.path.relpath(directory, self.root))
        beside = beside and not _is_free(path)
        try:
            os.rename(source, own_slot(path) if beside else path)
        except OSError as error:
            if beside or error.errno not in _TAKEN or not os.path.lexists(path):
                raise
            if self.policy.trusts(os.lstat(path)):
                return path
            beside = True
            os.rename(source, own_slot(path))
        try:
            sync_directory(directory)
        except FileNotFoundError:
            pass  # gone again: a miss for the next one
        return own_slot(path) if beside else path

    def _copy_again(self, fd: int, mode: int) -> str:
        """A new temporary with the bytes of a file that has no name any more.

        It gets its own when all is on the disk (open(2), O_TMPFILE), so that nobody removes it before; where the
        filesystem has no such files, at once.
        """
        from hpcc.cache.temporary import new_name

        directory = self.make_directory("tmp")
        path = os.path.join(directory, new_name())
        try:
            unnamed, copy_fd = True, os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:
            unnamed, copy_fd = False, open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(copy_fd, "wb") as copy:
            offset = 0
            while data := os.pread(fd, COPY, offset):
                copy.write(data)
                offset += len(data)
            copy.flush()
            os.fchmod(copy_fd, mode)
            os.fsync(copy_fd)
            if unnamed:  # by linkat(2), which link(2) is not: it follows the link in /proc
                os.link(f"/proc/self/fd/{copy_fd}", path, src_dir_fd=copy_fd, follow_symlinks=True)
        return path

    def write(self, path: str, data: bytes, *, mode: int = 0o444, beside: bool = False) -> None:
        """Publish `data` under `path`, as `publish` does. Atomic, idempotent."""
        with self.temporary() as file:
            file.write(data)
            self.publish(file, path, mode=mode, beside=beside)

    def touch_use(self, key: str) -> None:
        """Note that a run of the SIF `key` starts: what garbage collection goes by. Never fails a run.

        Once an hour at most, and then the file grows by a byte, so that its size counts the hours with runs (stats.py).
        """
        import time

        path = self.path("uses", key, str(os.getuid()))
        try:
            if time.time() - os.stat(path).st_mtime < USE_INTERVAL:
                return
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            if os.fstat(fd).st_nlink == 1:  # not a link of somebody else's to a file of ours
                os.write(fd, b".")
            os.close(fd)
            os.utime(path, follow_symlinks=False)
        except OSError:
            try:
                self.make_directory("uses", key)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            except (OSError, CacheError):
                pass  # a read-only cache


def open_private(path: str, flags: int) -> int:
    """An opener (see open()) of files for oneself alone, through no link."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_free(path: str) -> bool:
    """Whether a name can be had: nothing is there, as where it was purged a moment ago, or a file of one's own."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()


def own_slot(path: str) -> str:
    """Where this user's object stands when somebody else's has the name."""
    stem, suffix = os.path.splitext(path)
    return f"{stem}.{os.getuid()}{suffix}"


def sync_directory(path: str) -> None:
    """Make a rename in the directory last over a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _mkdir(path: str, mode: int) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    if mode != 0o700:
        os.chmod(path, mode)  # mkdir(2) drops what the umask masks


_TAKEN = (errno.EPERM, errno.EACCES, errno.EISDIR, errno.ENOTEMPTY)  # by somebody else's file, by a directory

_HINTS = {
    errno.ENOSPC: "Free some space (`hpcc cache clean`), or name a roomier place in HPCC_CACHE_DIR.",
    errno.EDQUOT: "Your quota is used up: `hpcc cache clean`, or name another place in HPCC_CACHE_DIR.",
    errno.EIO: "The disk or the file server has failed; ask your administrator, or name another place meanwhile.",
    errno.ESTALE: "The file server has lost the directory; try again, or name another place in HPCC_CACHE_DIR.",
    errno.EROFS: "The cache is read-only here: name one that you can write to in HPCC_CACHE_DIR.",
    errno.EACCES: "You may not write there: name a cache of your own in HPCC_CACHE_DIR.",
    errno.EPERM: "You may not write there: name a cache of your own in HPCC_CACHE_DIR.",
}


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Translate what the kernel says of a write into what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, HpccError):
            raise
        where = error.filename if isinstance(error.filename, str) else path
        hint = _HINTS.get(error.errno, "Look at the directory, or name another one in HPCC_CACHE_DIR.")
        raise CacheError(f"cannot write to the cache: {where}: {error.strerror}", hint=hint) from None
