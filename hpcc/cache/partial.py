"""Blobs on their way: what an earlier try brought is not fetched again.

    tmp/<algorithm>-<hex>.partial.<host>.<space>-<pid>-<start>-<random>    of a process (temporary.py)
    tmp/<algorithm>-<hex>.partial.left-<random>                            of none: whoever owns it may go on

A partial belongs to one process. Its bytes are believed by nobody: whoever goes on hashes them from the first on. One
of another user's is copied, not adopted: its owner could still write to it.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hpcc.cache.layout import Cache, explained, open_private
from hpcc.cache.temporary import MARK, PARTIAL_SIZE, is_abandoned, new_name
from hpcc.errors import CacheError
from hpcc.oci.digest import Digest
from hpcc.records import NamedTuple

COPY = 1 << 20


class Partial(NamedTuple):
    """A private file, open for reading and writing, whose first `have` bytes an earlier try brought."""

    file: BinaryIO
    have: int


@contextmanager
def partial(cache: Cache, digest: Digest, size: int) -> Iterator[Partial]:
    """A file in tmp/ for a blob of `size` bytes. At the end it is gone if it was published, or is hardly begun, or
    is whole, or where the cache is full; else it stays for the next try.
    """
    directory = cache.make_directory("tmp")
    stem = f"{digest.algorithm}-{digest.hex}{MARK}"
    path = os.path.join(directory, stem + new_name())
    with explained(path):
        have = _take_over(cache, directory, stem, path, size)
        try:
            file = open(path, "r+b" if have else "x+b", opener=open_private)
        except FileNotFoundError:  # purged in this moment
            have = 0
            cache.make_directory("tmp")
            file = open(path, "x+b", opener=open_private)
    most = size - 1
    try:
        with file, explained(path):
            if cache.is_shared():
                os.fchmod(file.fileno(), 0o644)  # for the next one, who may be somebody else
            file.seek(have)
            yield Partial(file, have)
    except CacheError:
        most = 0  # what it holds is room that others need
        raise
    finally:
        _leave(path, os.path.join(directory, f"{stem}left-{secrets.token_hex(6)}"), most)


def _leave(path: str, left: str, most: int) -> None:
    try:
        if PARTIAL_SIZE <= os.stat(path).st_size <= most:
            os.rename(path, left)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _take_over(cache: Cache, directory: str, stem: str, path: str, size: int) -> int:
    """Make the best partial that there is ours, as `path`; how many bytes that has, 0 where there is none."""
    found = []
    for name in os.listdir(directory):
        if name.startswith(stem):
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue
            if PARTIAL_SIZE <= status.st_size <= size and cache.policy.trusts(status) and status.st_nlink == 1:
                found.append((status.st_size, name, status))
    for have, name, status in sorted(found, key=lambda each: each[:2], reverse=True):
        old = os.path.join(directory, name)
        ours = status.st_uid == os.getuid()
        try:
            if ours and (name.startswith(stem + "left-") or is_abandoned(name.removeprefix(stem))):
                os.rename(old, path)
                if _is_same(os.lstat(path), status):
                    os.chmod(path, 0o600)  # whoever died while he published it had made it read-only
                    os.utime(path, follow_symlinks=False)
                    return have
                os.unlink(path)  # somebody put another file there meanwhile, perhaps a link to one of ours
            else:
                return _copy(cache, old, path, size)
        except OSError as error:
            _remove(path)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            continue  # somebody else was faster
    return 0


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and one.st_nlink == 1 and stat.S_ISREG(one.st_mode)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _copy(cache: Cache, old: str, path: str, size: int) -> int:
    copied = 0
    fd = os.open(old, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as source:
        if not cache.policy.trusts(os.fstat(fd)):
            raise FileNotFoundError(old)
        with open(path, "xb", opener=open_private) as target:
            while copied < size and (data := source.read(min(COPY, size - copied))):
                target.write(data)
                copied += len(data)
    return copied
