"""Two kinds of locks, for filesystems that have locks and for those of which nobody knows.

    locks/<hash>           flock: the kernel takes it away with the process that has it
    locks/<hash>.lease60   a lease of 60 s: its holder renews it, and whoever sees it not renewed for that long, by his
                           own clock, takes it; one of a dead process of the same host at once
    locks/<hash>.who       a note for waiters: who works, since when, how far. Not a lock, and believed by nobody
    locks/coherent         two nodes were seen to see each other's flocks here (`hpcc doctor --cache --with`)

auto: flock where the filesystem is one host's alone, or where the last file is; leases elsewhere, and where flock
fails.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from filelock import FileLock, Timeout

from hpcc.cache.filesystem import is_local
from hpcc.cache.layout import Cache
from hpcc.cache.lease import Lease
from hpcc.errors import CacheError
from hpcc.records import NamedTuple

COHERENT = "coherent"
MODE = 0o660
_BROKEN = (OSError, NotImplementedError, CacheError, ValueError)


class Locking(NamedTuple):
    """How to lock: `kind` is flock, lease or auto. Seconds: to wait for others, of a lease, between its renewals."""

    kind: str = "auto"
    wait: float = 3600.0
    lease: float = 60.0
    heartbeat: float = 15.0


def lock_path(cache: Cache, name: str) -> str:
    """The lock for `name`, whose text need not be known to others."""
    return cache.path("locks", sha256(name.encode()).hexdigest()[:32])


def uses_flock(cache: Cache, kind: str) -> bool:
    """Whether flock is tried first."""
    return kind == "flock" or (
        kind == "auto" and (is_local(cache.root) or os.path.exists(cache.path("locks", COHERENT)))
    )


class Lock:
    """The lock for a name, of one thread. Ask the same object again and again: it judges whether somebody else still
    renews a lease by what it saw before.
    """

    def __init__(self, cache: Cache, name: str, locking: Locking) -> None:
        path = lock_path(cache, name)
        self._cache = cache
        self._locks: list[FileLock | Lease] = []
        if uses_flock(cache, locking.kind):
            self._locks.append(FileLock(path, mode=MODE, timeout=0, fallback_to_soft=False))
        if not self._locks or locking.kind == "auto":
            lease = f"{path}.lease{locking.lease:g}"  # of others with another time none can be judged
            beat = min(locking.heartbeat, locking.lease / 2)
            self._locks.append(Lease(lease, locking.lease, beat, MODE))

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Whether the lock was free; it is held for the block. True as well where no lock can be had at all: it only
        saves work that is done twice.
        """
        for lock in self._locks:
            try:
                self._cache.make_directory("locks")
                free = lock.acquire() is not False
            except Timeout:
                free = False
            except _BROKEN:
                continue
            if not free:
                yield False
                return
            try:
                yield True
            finally:
                try:
                    lock.release()
                except _BROKEN:
                    pass  # it was taken over meanwhile
            return
        yield True
