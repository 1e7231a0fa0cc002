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
_UNKNOWN = -1


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
    """Whether `name` is a temporary whose process ran on this host and is gone.

    In doubt it is not: with hidepid (proc(5)) /proc says nothing of other users' processes.
    """
    host, *rest = name.rsplit("-", 3)
    if host != _here() or len(rest) != 3 or not (rest[0].isdecimal() and rest[1].isdecimal()):
        return False
    pid, begun = int(rest[0]), int(rest[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it lives, and is somebody else's; or it is no process's number
    return _start(pid) not in (_UNKNOWN, begun)


def _here() -> str:
    return f"{socket.gethostname()}.{os.stat('/proc/self/ns/pid').st_ino}"


def _start(pid: int) -> int:
    """proc(5), stat, field 22; _UNKNOWN where the process is gone, or hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return _UNKNOWN
