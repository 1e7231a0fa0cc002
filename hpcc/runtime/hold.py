"""Held roots: a mount that outlives its run for some seconds, so that the next run finds it warm.

Each FUSE mount starts with a cold page cache, and decompressing libc again costs more than all the rest of a run. So
one small process per user, node, image and job keeps the namespaces with the mount; a run joins them, makes a mount
namespace of its own, and goes on from there. Runs that have joined do not need the holder any more.

    <node dir>/held/<key>     "<pid> <start time>" of the holder; its mtime is the last use
    <node dir>/held/<key>.lock

A pid alone may be somebody else's by now, so the start time is compared through a descriptor of /proc/<pid>, and the
namespaces are opened relative to it. The holder goes when the file has been idle, or is gone.
"""

from __future__ import annotations

import fcntl
import os
import time

from hpcc.records import TYPE_CHECKING
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.fuse import close_all_but

if TYPE_CHECKING:
    from collections.abc import Callable


def join(path: str, *, user_namespace: bool) -> bool:
    """Enter the namespaces of the holder at `path`; False where there is none, or where the kernel does not let us.

    Raises OSError where only the first could be entered, since then there is no way back.
    """
    holder = _open_holder(path)
    if holder is None:
        return False
    try:
        kinds = [("user", kernel.CLONE_NEWUSER)] if user_namespace else []
        fds = [(os.open(f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=holder), kind) for name, kind in
               [*kinds, ("mnt", kernel.CLONE_NEWNS)]]  # fmt: skip
    except OSError:
        return False
    finally:
        os.close(holder)
    entered = 0
    try:
        for fd, kind in fds:
            kernel.setns(fd, kind)
            entered += 1
    except OSError:
        if entered:
            raise
    finally:
        for fd, _ in fds:
            os.close(fd)
    return bool(entered)


def touch(path: str) -> None:
    """Note a use, before joining: afterwards the path may lie under a mount."""
    try:
        os.utime(path)
    except OSError:
        pass


def dismiss(path: str) -> None:
    """End the holder at `path`, whose mount does not answer any more, so that nobody else joins it."""
    try:
        with open(path, encoding="ascii") as file:
            pid, _, started = file.read(64).partition(" ")
        os.unlink(path)
        handle = os.pidfd_open(int(pid))
        try:
            if _start_time(os.open(f"/proc/{int(pid)}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) == started:
                from signal import SIGTERM, pidfd_send_signal

                pidfd_send_signal(handle, SIGTERM)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        pass


def start(path: str, idle: float, enter: Callable[[], None], keep: tuple[int, ...]) -> bool:
    """Have a holder at `path`: one that is there, or a new one that calls `enter` to get its namespaces and mounts.

    False where it could not. One process at a time starts one for each path.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holder = _open_holder(path)
        if holder is not None:
            os.close(holder)
            return True
        return _fork_holder(path, idle, enter, keep)
    finally:
        os.close(lock)


def _fork_holder(path: str, idle: float, enter: Callable[[], None], keep: tuple[int, ...]) -> bool:
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.setsid()
            if os.fork() == 0:
                _hold(path, idle, enter, done, keep)
        except OSError:
            pass
        finally:
            os._exit(0)
    os.close(done)
    os.waitpid(child, 0)
    with open(ready, "rb") as answer:
        return answer.read(1) == b"r"


def _hold(path: str, idle: float, enter: Callable[[], None], done: int, keep: tuple[int, ...]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    here = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)  # its number stands in the key: keep it taken
    close_all_but((0, 1, 2, here, namespace, done, *keep))
    os.chdir("/")
    enter()
    for fd in keep:
        os.close(fd)
    name = os.path.basename(path)
    note = f"{os.getpid()} {_start_time(os.open('/proc/self', os.O_RDONLY | os.O_CLOEXEC))}"
    fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=here)
    os.write(fd, note.encode())
    os.close(fd)
    os.rename(f"{name}.new", name, src_dir_fd=here, dst_dir_fd=here)
    os.write(done, b"r")
    os.close(done)
    while True:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=here)
        except OSError:
            return
        mine = os.read(fd, 64) == note.encode()
        left = os.fstat(fd).st_mtime + idle - time.time()
        os.close(fd)
        if not mine:
            return
        if left <= 0:
            os.unlink(name, dir_fd=here)
            return
        time.sleep(min(left, idle) + 0.05)


def _open_holder(path: str) -> int | None:
    """A descriptor of the holder's /proc/<pid>, sure to be the holder's; None where it is gone."""
    try:
        with open(path, encoding="ascii") as file:
            pid, _, started = file.read(64).partition(" ")
        fd = os.open(f"/proc/{int(pid)}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if _start_time(fd, close=False) != started:
        os.close(fd)
        return None
    return fd


def _start_time(proc: int, *, close: bool = True) -> str:
    """Field 22 of stat (proc(5)), through a descriptor of the process's directory; "" where it is gone."""
    try:
        fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            fields = os.read(fd, 1024).rpartition(b")")[2].split()
            return "" if fields[0] in b"ZX" else fields[19].decode()  # a zombie has no namespaces any more
        finally:
            os.close(fd)
    except OSError:
        return ""
    finally:
        if close:
            os.close(proc)
