"""Servers that a test session starts for itself, and that do not outlive it.

Each set of them has a directory, `/var/tmp/PREFIX…`, which holds all that they write. While the session lives it holds
a lock there; the next session that wants such servers takes a directory whose lock is free for what a killed one left:
it ends the processes, unmounts, and removes. Nothing here waits without a bound.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.people import SYSTEM_PATH

PATIENCE = 5.0  # seconds from TERM to KILL
_BASE = Path("/var/tmp")  # every user can pass through, and sockets' paths stay short
_MARK = "HPCC_TEST_DAEMON"  # in a daemon's environment: a path in its directory
_OWNER = "owner"  # the locked file


@contextlib.contextmanager
def state_directory(prefix: str) -> Iterator[Path]:
    """A new directory for daemons, readable by everybody; at the end processes, mounts and the directory are gone.

    Leftovers of sessions that were killed go first, here and nowhere else.
    """
    for path in _BASE.glob(f"{prefix}*"):
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            continue  # anybody can make such names in /var/tmp
        with contextlib.suppress(OSError), open(path / _OWNER, "ab") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its session lives
            _remove(path)
    # Under another name until it is locked, so that nobody takes it for a leftover.
    new = Path(tempfile.mkdtemp(prefix=f".new-{prefix}", dir=_BASE))
    with open(new / _OWNER, "ab") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        new.chmod(0o755)
        path = new.rename(_BASE / new.name.removeprefix(".new-"))
        try:
            yield path
        finally:
            _remove(path)


def start(
    argv: Sequence[str | os.PathLike[str]], log: Path, *, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a daemon that stays in the foreground. The kernel kills it when this process dies, however it dies.

    (Not if it changes its user: that clears the order. And not what it forks.) `env` adds to a small environment.
    """
    words = ["setpriv", "--pdeathsig", "KILL", "--", *(os.fspath(word) for word in argv)]
    environ = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", _MARK: str(log), **(env or {})}
    with open(log, "ab") as output:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, cwd="/")


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """TERM to all at once, KILL to those that are there after PATIENCE; they are reaped."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel, on a filesystem that hangs
                process.wait(PATIENCE)


def wait_until(
    ready: Callable[[], object], seconds: float, processes: Sequence["subprocess.Popen[bytes]"] = ()
) -> bool:
    """Whether `ready()` became true within the time; False at once when one of `processes` has ended."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            return False
        time.sleep(0.02)
    return True


def end_processes(directory: Path) -> None:
    """TERM, then KILL, to what `start` started for this directory, and to all that inherited a variable naming it."""
    mark = b"=" + os.fsencode(directory) + b"/"

    def signal_all(number: int) -> bool:
        """Whether there was none."""
        pids = [pid for pid in _with_variable(mark) if pid not in (1, os.getpid())]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return not pids

    if not signal_all(signal.SIGTERM) and not wait_until(lambda: signal_all(0), PATIENCE):
        signal_all(signal.SIGKILL)
        wait_until(lambda: signal_all(0), PATIENCE)


def _with_variable(mark: bytes) -> Iterator[int]:
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or it is somebody else's
            if path.name.isdecimal() and mark in (path / "environ").read_bytes():
                yield int(path.name)


def tail(path: Path, size: int = 2000) -> str:
    """The end of a log, for messages."""
    try:
        return path.read_text(errors="replace")[-size:]
    except OSError:
        return ""


def unmount_below(directory: Path) -> bool:
    """Unmount lazily what is mounted below `directory`, so that a filesystem that hangs cannot stop it; whether all."""
    for mount in reversed(mounts_below(directory)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Without -c it would look at the mount point first, and wait with whatever hangs there.
            subprocess.run(["umount", "-l", "-c", mount], capture_output=True, timeout=PATIENCE, check=False)
    return not mounts_below(directory)


def mounts_below(directory: Path) -> list[str]:
    """The mount points below `directory`, the first mounted first; asks the kernel alone, so that it never waits."""
    fields = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [field[4] for field in fields if field[4].startswith(f"{directory}/")]


def _remove(directory: Path) -> None:
    unmount_below(directory)
    end_processes(directory)
    if unmount_below(directory):  # else rmtree would walk into a filesystem that may hang
        shutil.rmtree(directory, ignore_errors=True)
