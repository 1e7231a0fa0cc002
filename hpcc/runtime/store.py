"""The node store: what a user's jobs share on a node's own disk, made once, removed when it is old or room is scarce.

    <store>/<name>                 a file or a tree; whole, since it gets its name by a rename at the end
    <store>/<name>.partial         being made, by who has a flock on
    <store>/<name>.making
    <store>/<name>.lock            flock: shared for who is about to use it, exclusive for who removes it; holds the
                                   bytes that it takes; its time is that of the last use
    <store>/<name>.in-<number>     in use in the mount namespace of that number, as long as a process is in it

A run becomes its payload, so it can hold no lock while it uses something: it leaves the number of its mount namespace.
Where a process of the user's cannot be looked at, everything counts as in use.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time

from hpcc.errors import CacheError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_HINT = "Name a directory with room on this node's disk in HPCC_NODE_DIR."
_DAY = 86400.0
_DEEP = 512


class Limits(NamedTuple):
    """days: what was not used for so long goes; 0: never. size: bytes that all may take; 0: any."""

    days: float
    size: int


def obtain(
    directory: str, name: str, make: Callable[[str], None], limits: Limits, room: int = 0, purpose: str = "make it"
) -> str:
    """The path of `name` in the store, made by `make(path)` where it is missing. Atomic; one process makes it.

    It stays as long as this process neither ends nor executes something; `note_use` is for what comes then. Before
    something is made, what the limits say goes, and more, the longest unused first, where `room` bytes are not
    free. CacheError where they are not free even then; `purpose` is for its words.
    """
    path = os.path.join(directory, name)
    while True:
        lock = _lock(f"{path}.lock", fcntl.LOCK_SH)  # open until we are the payload
        if os.path.lexists(path):
            os.utime(lock)
            return path
        os.close(lock)
        _make(path, make, limits, room, purpose)


def _make(path: str, make: Callable[[str], None], limits: Limits, room: int, purpose: str) -> None:
    directory = os.path.dirname(path)
    lock = _lock(f"{path}.making", fcntl.LOCK_EX)
    try:
        if os.path.lexists(path):
            return
        evict(directory, limits, room)
        if (free := _free(directory)) < room:
            raise CacheError(f"{directory} has {free >> 20} MiB free, too little to {purpose}", hint=_HINT)
        partial = f"{path}.partial"
        remove(partial)
        try:
            make(partial)
            with open(f"{path}.lock", "w", encoding="ascii") as file:
                file.write(str(_size(partial)))
            os.rename(partial, path)
        except OSError as error:
            raise CacheError(f"cannot make {path}: {error.strerror}", hint=_HINT) from None
        finally:
            remove(partial)
    finally:
        os.close(lock)


def note_use(path: str) -> None:
    """Leave word that something of the store is in use in this process's mount namespace. Call it in there."""
    number = os.readlink("/proc/self/ns/mnt")[5:-1]  # mnt:[NUMBER]
    os.close(os.open(f"{path}.in-{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def evict(directory: str, limits: Limits, room: int) -> list[str]:
    """Remove what is too old, beyond the size, or in the way of `room` free bytes, and not in use; the names.

    Idempotent. What is in use may leave less than `room` free.
    """
    found = _entries(directory)
    total = sum(size for _, size, _ in found)
    oldest = time.time() - limits.days * _DAY
    gone = []
    living: set[str] | None = None
    for used, size, name in sorted(found):
        old = limits.days > 0 and used < oldest
        if not (old or (limits.size and total > limits.size) or _free(directory) < room):
            continue
        living = _living_namespaces() if living is None else living
        if _remove_entry(directory, name, living):
            total -= size
            gone.append(name)
    return gone


def _entries(directory: str) -> list[tuple[float, int, str]]:
    """(last use, bytes, name) of what is whole."""
    found = []
    for name in os.listdir(directory):
        if name.endswith(".lock"):
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    used, text = os.fstat(file.fileno()).st_mtime, file.read(32)
            except OSError:
                continue
            name = name.removesuffix(".lock")
            if os.path.lexists(os.path.join(directory, name)):
                found.append((used, int(text) if text.isdigit() else 0, name))
    return found


def _remove_entry(directory: str, name: str, living: set[str]) -> bool:
    """Whether it could be removed: nobody uses it, is about to, or makes it."""
    path = os.path.join(directory, name)
    locks = []
    try:
        locks += [_lock(f"{path}.{what}", fcntl.LOCK_EX | fcntl.LOCK_NB) for what in ("making", "lock")]
        prefix = f"{name}.in-"
        for each in os.listdir(directory):
            if each.startswith(prefix):
                if not living or each.removeprefix(prefix) in living:
                    return False
                os.unlink(os.path.join(directory, each))
        os.rename(path, f"{path}.partial")
        os.unlink(f"{path}.lock")
        remove(f"{path}.partial")
        os.unlink(f"{path}.making")
    except OSError:  # BlockingIOError: somebody has it
        return False
    finally:
        for lock in locks:
            os.close(lock)
    return True


def _living_namespaces() -> set[str]:
    """Numbers of the mount namespaces of all processes of this user; empty where one of them could not be seen."""
    found = set()
    mine = f"Uid:\t{os.getuid()}\t"
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                # Not by the owner of /proc/<pid>, which is root's where the program may not be read.
                with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if mine in text and "\nVmSize:" in text:  # neither a thread of the kernel nor a zombie
                    found.add(os.readlink(f"/proc/{pid}/ns/mnt")[5:-1])
            except PermissionError:
                if "\nCapPrm:\t0000000000000000\n" in text:  # as a payload; who has more rights than we is none
                    return set()
            except OSError:
                continue  # it has ended
    return found


def _lock(path: str, how: int) -> int:
    """A descriptor of the file, locked. BlockingIOError where that was not to wait, and somebody has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:  # who had it has removed it
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _free(directory: str) -> int:
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


def _size(path: str) -> int:
    """Bytes that a file or tree takes on disk."""
    total, todo = os.lstat(path).st_blocks * 512, [path] if os.path.isdir(path) and not os.path.islink(path) else []
    while todo:
        try:
            for entry in os.scandir(todo.pop()):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
        except PermissionError:
            continue  # a directory that an image forbids to everybody
    return total


def remove(path: str) -> None:
    """Remove a file, or a tree of one's own, also directories that forbid it, as images have them. Idempotent."""
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path) or os.path.islink(path):
        os.unlink(path)
        return
    todo = [path]
    while todo:
        directory = todo.pop()
        os.chmod(directory, 0o700)
        if len(directory) > len(path) + _DEEP:  # deeper ones have no path that the kernel takes, nor rmtree descriptors
            up = f"{path}/.deep-{os.urandom(8).hex()}"
            os.rename(directory, up)
            directory = up
        todo += [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    shutil.rmtree(path)
