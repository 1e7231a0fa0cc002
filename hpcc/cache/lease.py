"""A lease on a name: an existence lock whose holder renews it, and that is taken over when nobody does.

    <path>       JSON {"holder": <host>.<space>-<pid>-<start>-<random>}, made exclusively; its mtime moves when renewed
    <path>.<…>   one that somebody takes away, for a moment

Only what every shared filesystem has is used: O_EXCL, rename away (one winner), utimes by name. Not by an exchange of
names, which NFS and MooseFS do not have, and without which filelock's lease is never taken over there. In the worst
case two hold it at once, which costs work done twice: what is published is right without any lock.
"""

import json
import os
import secrets
import stat
import threading
import time

from hpcc.cache.temporary import is_abandoned, new_name

MAX_SIZE = 4096


class Lease:
    """A lease of `duration` seconds on `path`, renewed every `heartbeat` seconds while it is held.

    Of one thread, which asks `acquire` again and again: whether a holder lives it judges by whether the file changed
    meanwhile, by its own clock; so no two clocks are compared.
    """

    def __init__(self, path: str, duration: float, heartbeat: float, mode: int = 0o660) -> None:
        self._path, self._duration, self._heartbeat, self._mode = path, duration, heartbeat, mode
        self._name = ""
        self._seen: tuple[object, float] | None = None
        self._stop = threading.Event()

    def acquire(self) -> bool:
        """Whether it is ours now. Returns at once. OSError where the directory cannot be written to."""
        if self._make():
            return True
        state = self._look()
        if state is not None and (is_abandoned(state[0]) or self._is_stale(state)):
            self._take_away(state[0])
            return self._make()
        return state is None and self._make()  # it was given back in this moment

    def release(self) -> None:
        """Give it back, unless somebody has taken it over. Idempotent."""
        self._stop.set()
        state = self._look()
        if self._name and state is not None and state[0] == self._name:
            _unlink(self._path)
        self._name = ""

    def _make(self) -> bool:
        name = new_name()
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        except FileExistsError:
            return False
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, self._mode)
            json.dump({"holder": name}, file)
        self._name, self._stop = name, threading.Event()
        beat = threading.Thread(target=self._renew, args=(name, self._stop), name="lease", daemon=True)
        beat.start()
        return True

    def _renew(self, name: str, stop: threading.Event) -> None:
        """Touch the file until it is given back or somebody else's. By its name: others look at it by that."""
        while not stop.wait(self._heartbeat):
            try:
                state = self._look()
                if state is not None and state[0] != name:
                    return
                os.utime(self._path, follow_symlinks=False)
            except OSError:
                continue  # a server that is away for a moment

    def _look(self) -> tuple[str, object] | None:
        """Who has it, and what changes when it is renewed; None where it is free. A damaged one has no holder, ""."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            return "", None  # a link, or a file of another user: it never changes, and is taken away in the end
        with open(fd, "rb") as file:
            data = file.read(MAX_SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        try:
            holder = str(json.loads(data)["holder"])
        except (ValueError, KeyError, TypeError):
            holder = ""
        try:
            status = os.lstat(self._path)  # what was opened may show an older state
        except FileNotFoundError:
            return None
        return holder, (data, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)

    def _is_stale(self, state: tuple[str, object]) -> bool:
        """Whether it looked like this for as long as the lease lasts."""
        now = time.monotonic()
        if self._seen is None or self._seen[0] != state:
            self._seen = state, now
            return False
        return now - self._seen[1] >= self._duration

    def _take_away(self, holder: str) -> None:
        """Remove the lease of this holder, and of no other that came meanwhile."""
        aside = f"{self._path}.{secrets.token_hex(6)}"
        try:
            os.rename(self._path, aside)  # of several who try, one succeeds
        except OSError:
            return
        taken = Lease(aside, 0, 0)._look()
        if taken is not None and taken[0] != holder:
            try:
                os.link(aside, self._path)  # back; if somebody was faster, there are two holders
            except OSError:
                pass
        _unlink(aside)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
