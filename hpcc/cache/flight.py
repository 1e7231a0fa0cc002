"""One process does the work, the others wait for its result.

A lock only saves duplicate work: what is published is correct without it (layout.py). So where locking does not work,
or the lock cannot be made, the work is done anyway. Waiters look for the result, not for the lock, with pauses that
grow with the time waited; a holder that dies loses its lock (locking.py), and the next in line takes over.
"""

import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from hpcc.cache.layout import Cache
from hpcc.cache.locking import Lock, Locking, lock_path
from hpcc.errors import LockTimeout

FIRST_PAUSE, LAST_PAUSE = 0.05, 5.0  # seconds
SHARE = 0.1  # of the time waited, by which a waiter may be late
TELL_AGAIN = 60.0  # seconds between two lines about whom we wait for
T = TypeVar("T")
Tell = Callable[[str], None]
"""Notes how far the work is, for those who wait. Costs nothing when it is called often."""


def single_flight(
    cache: Cache,
    name: str,
    look: Callable[[], T | None],
    work: Callable[[Tell], T],
    locking: Locking,
    *,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> T:
    """`look()` if it finds something, else `work(tell)`, by one process at a time for each `name`.

    Raises LockTimeout after `locking.wait` seconds of somebody else's work. `on_wait` is told whom we wait for, since
    when and how far they are: soon, and then once a minute.
    """
    began = time.monotonic()
    told: float | None = None
    lock = Lock(cache, name, locking)
    while True:
        found = look()
        if found is not None:
            return found
        with lock.hold() as held:
            if held:
                found = look()  # somebody may have finished between the look and the lock
                if found is not None:
                    return found
                note = _Note(lock_path(cache, name) + ".who")
                return work(note.tell)
        waited = time.monotonic() - began
        if waited > locking.wait:
            raise LockTimeout(
                f"{name}: waited {locking.wait:.0f} s for {_holder(lock_path(cache, name))}",
                hint="Try again later, or wait longer with --lock-wait or HPCC_LOCK_WAIT.",
            )
        time.sleep(min(max(FIRST_PAUSE, waited * SHARE), LAST_PAUSE) * random.uniform(0.7, 1.3))
        if told is None or waited - told > TELL_AGAIN:  # the first time, whoever has the lock had the time to sign
            told = waited
            on_wait(_holder(lock_path(cache, name)))


class _Note:
    """What a holder leaves for waiters: who works, since when, how far. The lock is the lock, not the note."""

    INTERVAL = 2.0

    def __init__(self, path: str) -> None:
        import getpass
        import socket

        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        self._path = path
        self._text = f"{user} on {socket.gethostname()}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}"
        self._written = 0.0
        self._write(self._text)

    def tell(self, how_far: str) -> None:
        now = time.monotonic()
        if now - self._written > self.INTERVAL:
            self._written = now
            self._write(f"{self._text}: {how_far}")

    def _write(self, text: str) -> None:
        try:
            if os.path.lexists(self._path):
                os.unlink(self._path)  # not opened: others may write here, and it may be a link of theirs to ours
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o644)
                file.write(text)
        except OSError:
            pass


def _holder(path: str) -> str:
    try:
        fd = os.open(path + ".who", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", errors="replace") as file:
            return "".join(ch for ch in file.read(300) if ch.isprintable()) or "another process"
    except OSError:
        return "another process"
