"""What a cache's filesystem does: tried, not looked up by its name, from one node or from two.

here                                   the other side (`hpcc doctor --answer DIR`), which reads stdin line by line
lock NAME, then try to lock it too     takes a flock, says "locked"; "unlock" gives it back
                                       begins with "ready HOST"
see NAME                               says "seen" once it sees the file, or "unseen"
make NAME                              makes it, says "made"
quit                                   ends
"""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from hpcc.cache.filesystem import filesystem_of, is_local
from hpcc.cache.layout import Cache, sync_directory
from hpcc.cache.locking import COHERENT
from hpcc.errors import CacheError
from hpcc.records import NamedTuple

PATIENCE = 30.0  # seconds in which one node should see what another one did
ANSWER_TIME = 60.0  # seconds for the other side to begin


class Trial(NamedTuple):
    """One thing that was tried. needed: hpcc does not work without it; else it only saves work."""

    what: str
    good: bool
    said: str
    needed: bool = True


def examine(cache: Cache, other: Sequence[str] | None = None) -> list[Trial]:
    """Try what hpcc needs of the cache's filesystem; with `other`, the command line of the other side, from there too.

    What was found of locks is recorded in the cache (locking.py). Leaves nothing else. CacheError where nothing can be
    written there, or where the other side does not answer.
    """
    directory = cache.make_directory("tmp")
    name = os.path.join(directory, f"examine-{secrets.token_hex(6)}")
    kind = filesystem_of(cache.root) or "unknown"
    whose = "of this host alone" if is_local(cache.root) else "perhaps shared"
    trials = [Trial("filesystem", True, f"{kind}, {whose}")]
    try:
        for what, trial in _HERE.items():
            trials.append(_try(what, trial, name))
        trials.append(_try("locks between processes", _flock_here, name, needed=False))
        if other is not None:
            trials += _with_other(cache, name, other)
    finally:
        for suffix in ("", ".a", ".b", ".seen", ".made"):
            _remove(name + suffix)
    return trials


def answer(directory: str, source: IO[str], sink: IO[str]) -> None:
    """The other side: do what each line of `source` says in tmp/ of the cache, and say so. Ends with its input."""
    locks: dict[str, int] = {}
    print(f"ready {_this_host()}", file=sink, flush=True)
    for line in source:
        verb, _, name = line.strip().partition(" ")
        path = os.path.join(directory, "tmp", os.path.basename(name))
        if verb == "lock":
            locks[name] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(locks[name], fcntl.LOCK_EX)
            print("locked", file=sink, flush=True)
        elif verb == "unlock":
            os.close(locks.pop(name))
            print("unlocked", file=sink, flush=True)
        elif verb == "see":
            print("seen" if _appears(path) else "unseen", file=sink, flush=True)
        elif verb == "make":
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            print("made", file=sink, flush=True)
        else:
            return


# -- here ------------------------------------------------------------------------------------------------------------


def _rename(name: str) -> str:
    for suffix, data in ((".a", b"new"), (".b", b"old")):
        with open(name + suffix, "wb") as file:
            file.write(data)
    with open(name + ".b", "rb") as reader:
        os.rename(name + ".a", name + ".b")
        with open(name + ".b", "rb") as file:
            if file.read() != b"new":
                raise OSError(0, "the old content stands under the name")
        if reader.read() != b"old":
            return "a reader of the old file lost it: an object that is replaced is read again"
    return "a name changes from one file to another at once"


def _exclusive(name: str) -> str:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return "of two who make a file, one is told that he was second"
    raise OSError(0, "a file was made exclusively twice")


def _link(name: str) -> str:
    os.link(name, name + ".a")
    if os.stat(name).st_nlink != 2:
        raise OSError(0, "a linked file does not count its links")
    return "a second name, and both are counted"


def _fsync(name: str) -> str:
    begun = time.perf_counter()
    with open(name, "r+b") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(os.path.dirname(name))
    return f"file and directory, {(time.perf_counter() - begun) * 1000:.0f} ms"


_HERE: dict[str, Callable[[str], str]] = {
    "rename": _rename,
    "exclusive create": _exclusive,
    "link": _link,
    "fsync": _fsync,
}


def _flock_here(name: str) -> str:
    first, second = (os.open(name, os.O_RDWR | os.O_CLOEXEC) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_locked(second):
            raise OSError(0, "two have the same lock: it does nothing here")
        return "the second one waits"
    finally:
        os.close(first)
        os.close(second)


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _try(what: str, trial: Callable[[str], str], name: str, *, needed: bool = True) -> Trial:
    try:
        return Trial(what, True, trial(name), needed)
    except OSError as error:
        return Trial(what, False, error.strerror or str(error), needed)


# -- with another node -----------------------------------------------------------------------------------------------


def _with_other(cache: Cache, name: str, other: Sequence[str]) -> list[Trial]:
    base = os.path.basename(name)
    with _started(other) as (ask, host):
        begun = time.monotonic()
        os.close(os.open(name + ".seen", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        seen = ask(f"see {base}.seen") == "seen"
        there = Trial("seen there", seen, f"after {time.monotonic() - begun:.1f} s" if seen else "not in half a minute")
        ask(f"make {base}.made")
        begun = time.monotonic()
        seen = _appears(name + ".made")
        here = Trial("seen here", seen, f"after {time.monotonic() - begun:.1f} s" if seen else "not in half a minute")
        coherent = ask(f"lock {base}") == "locked" and _locked_from_here(name)
        ask(f"unlock {base}")
        if host == _this_host():
            said = "that command runs on this host: nothing is learnt of another one"
            return [there, here, Trial("locks between nodes", coherent, said, needed=False)]
        said = "each node sees the other's" if coherent else "a node does not see the other's: leases are used"
        _record(cache, coherent, other)
        return [there, here, Trial("locks between nodes", coherent, said, needed=False)]


def _locked_from_here(name: str) -> bool:
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _is_locked(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


@contextmanager
def _started(other: Sequence[str]) -> Iterator[tuple[Callable[[str], str], str]]:
    """The other side, running: a function that sends it a line and gives back its answer; and its host."""
    try:
        process = subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    except OSError as error:
        hint = "Give a command that runs another one there: --with 'ssh n2'."
        raise CacheError(f"cannot run {other[0]}: {error.strerror}", hint=hint) from None
    assert process.stdin is not None and process.stdout is not None
    sink, source = process.stdin, process.stdout

    def ask(line: str) -> str:
        try:
            sink.write(f"{line}\n")
            sink.flush()
        except OSError:
            pass
        return _read_line(process, source)

    try:
        word, _, host = _read_line(process, source).partition(" ")
        if word != "ready":
            raise CacheError("the other side says something else than hpcc does", hint="Is hpcc there, and the same?")
        yield ask, host
    finally:
        try:
            sink.close()
        except OSError:
            pass
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        source.close()


def _read_line(process: "subprocess.Popen[str]", source: IO[str]) -> str:
    import select

    if not select.select([source], [], [], ANSWER_TIME)[0]:
        process.kill()
        raise CacheError(f"the other node said nothing in {ANSWER_TIME:.0f} s", hint="Does the command work by itself?")
    line = source.readline()
    if not line:
        raise CacheError(
            f"the other side ended with status {process.wait(10)}", hint="Does the command run hpcc there?"
        )
    return line.strip()


def _this_host() -> str:
    """By name and boot: containers of one host share the second, nodes that were cloned the first."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{socket.gethostname()}/{file.read().strip()}"


def _record(cache: Cache, coherent: bool, other: Sequence[str]) -> None:
    path = cache.path("locks", COHERENT)
    if not coherent:
        _remove(path)
        return
    cache.make_directory("locks")
    note = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "with": list(other)[:4]}
    cache.write(path, json.dumps(note).encode())


def _appears(path: str) -> bool:
    """Whether the file is there within PATIENCE; a directory is listed, since a failed look-up may be remembered."""
    end = time.monotonic() + PATIENCE
    directory, name = os.path.split(path)
    while time.monotonic() < end:
        if name in os.listdir(directory):
            return True
        time.sleep(0.1)
    return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
