"""Names of temporaries: whose they are, so that what a killed process left can be told and removed.

tmp/<host>.<space>-<pid>-<start>-<random>

space   the namespace in which the pid means something: a job's own, or the host's
start   when the process began, in clock ticks since boot
"""

import os
import secrets
import socket
import time

MARK = ".partial."  # in the name of a blob on its way (partial.py)
PARTIAL_AGE = 86400.0  # seconds for which a partial is kept for the next try
PARTIAL_SIZE = 1 << 20  # bytes below which it is not worth keeping


def new_name() -> str:
    return f"{_here()}-{os.getpid()}-{_start(os.getpid())}-{secrets.token_hex(6)}"


def sweep(directory: str) -> int:
    """Remove one's own temporaries of processes that ran on this host and are gone. Returns how many.

    A partial stays for a day, since the next try goes on from there.
    """
    young = time.time() - PARTIAL_AGE
    removed = 0
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return 0
    for entry in entries:
        _, mark, rest = entry.name.rpartition(MARK)
        if is_abandoned(rest) or (mark and rest.startswith("left-")):
            try:
                status = entry.stat(follow_symlinks=False)
                if mark and status.st_size >= PARTIAL_SIZE and status.st_mtime > young:
                    continue
                os.unlink(entry.path)  # in a sticky directory somebody else's stays
                removed += 1
            except OSError:
                continue
    return removed


def is_abandoned(name: str) -> bool:
    """Whether `name` is a temporary whose process ran on this host and is gone."""
    host, *rest = name.rsplit("-", 3)
    if host != _here() or len(rest) != 3 or not (rest[0].isdigit() and rest[1].isdigit()):
        return False
    return _start(int(rest[0])) != int(rest[1])


def _here() -> str:
    return f"{socket.gethostname()}.{os.stat('/proc/self/ns/pid').st_ino}"


def _start(pid: int) -> int:
    """proc(5), stat, field 22; -1 where the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return -1
