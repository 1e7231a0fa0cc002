"""Held roots: a mount that outlives its run for some seconds, so that the next run finds it warm.

Each FUSE mount starts with a cold page cache, and decompressing libc again costs more than all the rest of a run. So
one small process per user, node, image and job keeps the namespaces with the mount; a run joins them, makes a mount
namespace of its own, and goes on from there. Runs that have joined do not need the holder any more.

    <node dir>/held/<key>     "<pid> <start time>" of the holder, then those of process 1 of the namespaces that ranks
                              share, if any; then a line with what it holds; mtime: the last use
    <node dir>/held/<key>.lock

A pid alone may be somebody else's by now, so the start time is compared through a descriptor of /proc/<pid>, and the
namespaces are opened relative to it. The holder goes when the file has been idle, or is gone; that of a step not before
its last rank, and with it goes what ranks have left behind.
"""

from __future__ import annotations

import fcntl
import os
import time

from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.fuse import close_all_but

if TYPE_CHECKING:
    from collections.abc import Callable


_LOOK_AGAIN = 5.0  # seconds between two looks whether a step has ranks
_SERVERS = ("hpcc-squashfs", "squashfuse_ll")


def join(path: str, *, user_namespace: bool) -> int | None:
    """Enter the namespaces of the holder at `path`; None where there is none, or where the kernel does not let us.

    What comes back is a descriptor of /proc/<pid> of process 1 of the namespaces that ranks share, -1 where they share
    none. Raises OSError where only the first could be entered, since then there is no way back.
    """
    holder = _open_holder(path)
    if holder is None:
        return None
    if enter_namespaces(holder.process, (*(("user",) if user_namespace else ()), "mnt")):
        return holder.first
    holder.close_first()
    return None


def enter_namespaces(process: int, kinds: tuple[str, ...]) -> bool:
    """Enter these namespaces of the process whose directory in /proc is open as `process`, which is closed.

    False where none was entered. Raises OSError where only some could be, since then there is no way back.
    """
    try:
        fds = [os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process) for kind in kinds]
    except OSError:
        return False
    finally:
        os.close(process)
    entered = 0
    try:
        for fd in fds:
            kernel.setns(fd, 0)
            entered += 1
    except OSError:
        if entered:
            raise
    finally:
        for fd in fds:
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
            pid, started = file.readline(128).split()[:2]
        os.unlink(path)
        handle = os.pidfd_open(int(pid))
        try:
            if start_time(int(pid)) == started:
                from signal import SIGTERM, pidfd_send_signal

                pidfd_send_signal(handle, SIGTERM)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        pass


class Held(NamedTuple):
    """What a holder is for. about: the image that it holds, for `hpcc instance list --all`. idle: seconds.

    step: the name of a step, whose ranks share the namespaces `kinds` (of pid and ipc) as well; "" for none.
    root: there is no user namespace by which ranks could be told, so kinds are not empty where there is a step.
    """

    about: str
    idle: float
    step: str = ""
    kinds: tuple[str, ...] = ()
    root: bool = False


def start(path: str, held: Held, enter: Callable[[], None], keep: tuple[int, ...]) -> bool:
    """Have a holder at `path`: one that is there, or a new one that calls `enter` to get its namespaces and mounts.

    False where it could not. One process at a time starts one for each path.
    """
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False  # a node directory that is full, or only read
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holder = _open_holder(path)
        if holder is not None:
            os.close(holder.process)
            holder.close_first()
            return True
        return _fork_holder(path, held, enter, keep)
    finally:
        os.close(lock)


def _fork_holder(path: str, held: Held, enter: Callable[[], None], keep: tuple[int, ...]) -> bool:
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.setsid()
            if os.fork() == 0:
                _hold(path, held, enter, done, keep)
        except OSError:
            pass
        finally:
            os._exit(0)
    os.close(done)
    os.waitpid(child, 0)
    with open(ready, "rb") as answer:
        return answer.read(1) == b"r"


def _hold(path: str, held: Held, enter: Callable[[], None], done: int, keep: tuple[int, ...]) -> None:
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
    first = _first_of(held.kinds) if held.kinds else 0
    processes = [os.getpid(), *([first] if first else [])]
    line = " ".join(f"{pid} {start_time(pid)}" for pid in processes)
    note = os.fsencode(f"{line}\n{held.idle:g} {held.about}")
    fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=here)
    os.write(fd, note)
    os.close(fd)
    os.rename(f"{name}.new", name, src_dir_fd=here, dst_dir_fd=here)
    os.write(done, b"r")
    os.close(done)
    while True:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=here)
        except OSError:
            return
        mine = os.read(fd, len(note) + 1) == note
        left = os.fstat(fd).st_mtime + held.idle - time.time()
        os.close(fd)
        if not mine:
            return
        if left <= 0 and held.step and (_has_ranks(first, held.kinds[0]) if held.root else _is_joined()):
            time.sleep(_LOOK_AGAIN)
            continue
        if left <= 0:
            os.unlink(name, dir_fd=here)
            return
        time.sleep(min(left, held.idle) + 0.05)


def _first_of(kinds: tuple[str, ...]) -> int:
    """Have a process 1 in new namespaces of these kinds; it goes with us, and reaps. Its pid."""
    kernel.unshare(sum({"pid": kernel.CLONE_NEWPID, "ipc": kernel.CLONE_NEWIPC}[kind] for kind in kinds))
    child = os.fork()
    if child == 0:
        import signal

        kernel.set_parent_death_signal(signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so the kernel reaps
        while True:
            signal.pause()
    return child


def _is_joined() -> bool:
    """Whether somebody is in our user namespace beside us and what serves the mount, in the PID namespace of ours."""
    mine = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "pid")]
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                if [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "pid")] == mine:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        if file.read().strip() not in _SERVERS:
                            return True
            except OSError:
                continue
    return False


def _has_ranks(first: int, kind: str) -> bool:
    """Whether a process whose parent is outside is in that namespace of the process `first`: root's ranks."""
    shared = os.readlink(f"/proc/{first}/ns/{kind}")
    parents = {}
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and int(pid) != first and os.readlink(f"/proc/{pid}/ns/{kind}") == shared:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    parents[int(pid)] = int(file.read(1024).rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
    return any(parent != first and parent not in parents for parent in parents.values())


class Holder(NamedTuple):
    """A process that holds a root: since when nobody has used it, and for how long it then stays (seconds)."""

    pid: int
    image: str
    used: float
    idle: float


def holders(directory: str) -> list[Holder]:
    """The living holders of a directory `held`, each of a user's own; that of another user is not to be trusted."""
    found = []
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    for name in names:
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                first, _, second = os.fsdecode(file.read(8192)).partition("\n")
            pid, started = first.split()[:2]
            idle, _, image = second.partition(" ")
            process = open_process(int(pid), started)
            if process is not None:
                if os.fstat(process).st_uid == status.st_uid:
                    found.append(Holder(int(pid), image, status.st_mtime, float(idle)))
                os.close(process)
        except (OSError, ValueError):
            continue
    return found


class _Processes(NamedTuple):
    """Descriptors of /proc/<pid> of a holder and of its process 1, -1 where it has none."""

    process: int
    first: int

    def close_first(self) -> None:
        if self.first >= 0:
            os.close(self.first)


def _open_holder(path: str) -> _Processes | None:
    """Those of a holder, sure to be its own; None where one is gone.

    The file is read once: who looked for process 1 before the holder would miss it where both came between.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            words = file.readline(128).split()
        process = open_process(int(words[0]), words[1])
        if process is None or len(words) < 4:
            return None if process is None else _Processes(process, -1)
        first = open_process(int(words[2]), words[3])
        if first is None:
            os.close(process)
            return None
        return _Processes(process, first)
    except (OSError, ValueError, IndexError):
        return None


def open_process(pid: int, started: str) -> int | None:
    """A descriptor of /proc/<pid>, sure to be of the process that started then; None where that is gone."""
    try:
        fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    fields = stat_fields(fd)
    if not fields or fields[19] != started:
        os.close(fd)
        return None
    return fd


def start_time(pid: int) -> str:
    """When the process started, in the kernel's ticks since boot; "" where it is gone."""
    try:
        fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fields = stat_fields(fd)
        return fields[19] if fields else ""
    finally:
        os.close(fd)


def stat_fields(process: int) -> list[str]:
    """The fields of stat (proc(5)) from the third one on, through a descriptor of /proc/<pid>; none where it is gone.

    So [0] is the state, [1] the parent, [19] the start time. A zombie has no namespaces any more, and counts as gone.
    """
    try:
        fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
        try:
            fields = os.read(fd, 1024).rpartition(b")")[2].decode("ascii").split()
            return [] if fields[0] in "ZX" else fields
        finally:
            os.close(fd)
    except OSError:
        return []
