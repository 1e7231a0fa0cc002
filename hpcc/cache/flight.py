"""One process does the work, the others wait for its result.

A lock only saves duplicate work: what is published is correct without it (layout.py). So where locking does not work,
or the lock cannot be made, the work is done anyway. Waiters look for the result, not for the lock, with growing pauses;
a holder that dies loses its lock with its life, and the next in line takes over.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TypeVar

from filelock import FileLock, Timeout

from hpcc.cache.layout import Cache
from hpcc.errors import CacheError, LockTimeout

FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0  # seconds
T = TypeVar("T")


def single_flight(
    cache: Cache,
    name: str,
    look: Callable[[], T | None],
    work: Callable[[], T],
    *,
    wait: float,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> T:
    """`look()` if it finds something, else `work()`, by one process at a time for each `name`.

    Raises LockTimeout after `wait` seconds of somebody else's work. `on_wait` is told once whom we wait for.
    """
    deadline = time.monotonic() + wait
    pause = FIRST_PAUSE
    told = False
    while True:
        found = look()
        if found is not None:
            return found
        with _try_lock(cache, name) as held:
            if held:
                found = look()  # somebody may have finished between the look and the lock
                return work() if found is None else found
        if time.monotonic() > deadline:
            raise LockTimeout(
                f"{name}: waited {wait:.0f} s for {_holder(_lock_path(cache, name))}",
                hint="Try again later, or wait longer with HPCC_LOCK_WAIT.",
            )
        time.sleep(pause * random.uniform(0.7, 1.3))
        if not told:  # now that whoever has the lock had the time to sign
            told = True
            on_wait(_holder(_lock_path(cache, name)))
        pause = min(pause * 1.4, LAST_PAUSE)


def _lock_path(cache: Cache, name: str) -> str:
    return cache.path("locks", sha256(name.encode()).hexdigest()[:32])


@contextmanager
def _try_lock(cache: Cache, name: str) -> Iterator[bool]:
    """Whether the lock was free; it is held for the block. True as well where no lock can be had at all."""
    path = _lock_path(cache, name)
    try:
        cache.make_directory("locks")
        lock = FileLock(path, mode=0o660, timeout=0)
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError, CacheError):
        yield True
        return
    try:
        _sign(path)
        yield True
    finally:
        lock.release()


def _sign(path: str) -> None:
    """Leave a note for waiters: who works. The lock is the flock, not the note."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    note = f"{user} on {socket.gethostname()}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}"
    who = path + ".who"
    try:
        if os.path.lexists(who):
            os.unlink(who)  # not opened: others may write here, and it may be a link of theirs to a file of ours
        fd = os.open(who, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(note)
    except OSError:
        pass


def _holder(path: str) -> str:
    try:
        fd = os.open(path + ".who", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", errors="replace") as file:
            return "".join(ch for ch in file.read(200) if ch.isprintable()) or "another process"
    except OSError:
        return "another process"
