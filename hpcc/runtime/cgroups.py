"""A cgroup of a container's own, of version 2, below one that its caller may divide: cgroups(7).

    <place>/               a cgroup of ours, or one above it
      hpcc-<pid>-<n>/        the payload and all that it starts; <pid> is hpcc's process beside it, which removes it
      hpcc-beside/           where nobody but us was in the place: we, since version 2 wants processes in leaves only

A place is a cgroup whose directory and cgroup.procs we may write, as the owner of a delegated one may, and whose
children have the controllers that are needed. No process but our own is ever moved. What a killed hpcc has left the
next run removes. A cgroup that has limits is never left for one that has none.
"""

from __future__ import annotations

import errno
import os
import time

from hpcc.errors import RuntimeUnavailable
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.limits import Setting, controllers

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX, _BESIDE = "hpcc-", "hpcc-beside"
_OWN_LIMITS = ("memory.max", "memory.high", "cpu.max", "cpuset.cpus", "cpuset.mems")
_HINT = (
    "Users may limit what runs in a cgroup that systemd has delegated to them: in a login session hpcc asks "
    "`systemd-run --user --scope` for one. A batch job asks its batch system (`srun --mem`, `--cpus-per-task`)."
)
_VERSION1 = (
    "The administrator can have version 2 alone: systemd.unified_cgroup_hierarchy=1 on the kernel's command line. "
    "A batch job asks its batch system (`srun --mem`, `--cpus-per-task`)."
)
_NOT_GIVEN = (
    "The administrator can delegate more to users: `Delegate=cpu cpuset io memory pids` below [Service] in "
    "/etc/systemd/system/user@.service.d/delegate.conf."
)
_PATIENCE = 1.0  # seconds until the kernel has buried those that were killed


class Tree(NamedTuple):
    """Directories of cgroups: our own, then each one above, as far as they are mounted; `name` is ours."""

    name: str
    directories: tuple[str, ...]
    version1: frozenset[str]  # controllers that this host has in hierarchies of version 1


class Place(NamedTuple):
    """A cgroup in which one may be made. `enable`: controllers that its children lack. `alone`: nobody but us is in
    it, so that we must step aside first."""

    path: str
    enable: tuple[str, ...] = ()
    alone: bool = False


def read_tree(mountinfo: str, cgroup: str) -> Tree:
    """From the texts of mountinfo and cgroup in /proc/self. Pure. No directories where version 2 is not mounted, or
    not our part of it."""
    name = next((line[3:] for line in cgroup.splitlines() if line.startswith("0::")), "")
    version1: set[str] = set()
    found: tuple[str, ...] = ()
    for line in mountinfo.splitlines():
        words, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.partition(" ")
        if kind == "cgroup":
            version1 |= set(options.rpartition(" ")[2].split(","))
        elif kind == "cgroup2" and name and not found:
            root, place = (_unescaped(word).rstrip("/") for word in words.split()[3:5])
            below = f"{name.rstrip('/')}/"
            if below.startswith(f"{root}/") and not below.startswith("/../"):
                parts = [part for part in below[len(root) :].split("/") if part]
                found = tuple("/".join((place, *parts[:length])) for length in range(len(parts), -1, -1))
    return Tree(name, found, frozenset(version1))


def _unescaped(word: str) -> str:
    for code in ("040", "011", "012", "134"):
        word = word.replace(f"\\{code}", chr(int(code, 8)))
    return word


def tree_of(pid: int | str = "self") -> Tree:
    """That of a process, as this one sees it. OSError where there is no such process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mountinfo = file.read()
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return read_tree(mountinfo, file.read())


def find_place(tree: Tree, needed: frozenset[str], pid: int, *, managed: bool, ready: bool = False) -> Place | str:
    """Where a cgroup with these controllers can be made for the process `pid`, or why nowhere. Changes nothing.

    managed: by systemd, which would take away again from its own cgroups what others enable in them.
    ready: only where nothing has to be done first.
    """
    if not tree.directories:
        return "this host has cgroups of version 1, which users cannot divide and hpcc does not use"
    theirs = sorted(needed & tree.version1)
    if theirs:
        return f"this host has {' and '.join(theirs)} in cgroups of version 1, which hpcc does not use"
    why = ""
    for directory in tree.directories:
        here = directory == tree.directories[0]
        if here and os.path.basename(directory) == _BESIDE:
            continue
        place = _as_place(directory, needed, (pid,) if here else (), managed=managed)
        if isinstance(place, Place) and not (ready and (place.enable or place.alone)):
            return place
        place = place if isinstance(place, str) else "is not prepared"
        why = why or f"the cgroup {tree.name} {place}"
        if limit := own_limit(directory):
            return f"{why}, and hpcc does not leave {directory}, which has a limit of its own ({limit})"
    return why


def _as_place(directory: str, needed: frozenset[str], ours: tuple[int, ...], *, managed: bool) -> Place | str:
    if not all(os.access(path, os.W_OK) for path in (directory, f"{directory}/cgroup.procs")):
        return "is not yours to divide"
    enable = tuple(sorted(needed - set(_words(f"{directory}/cgroup.subtree_control"))))
    missing = sorted(set(enable) - set(_words(f"{directory}/cgroup.controllers")))
    if missing:
        return f"has not been given {' and '.join(missing)}"
    processes = tuple(int(word) for word in _words(f"{directory}/cgroup.procs"))
    if not os.path.exists(f"{directory}/cgroup.type"):  # the top of all, which may have processes beside its children
        processes = ()
    if processes and processes == ours:
        return Place(directory, enable, alone=True)
    if processes:
        return "has other processes than hpcc's"
    if enable and managed:
        return f"is systemd's, which limits no {' and '.join(enable)} in it"
    return Place(directory, enable)


def own_limit(directory: str) -> str:
    """The file of a limit that this cgroup has itself; "" where it has none.

    A number of processes does not count: systemd gives one to each scope.
    """
    for name in _OWN_LIMITS:
        words = _words(f"{directory}/{name}")
        if words and words[0] != "max":
            return name
    return ""


def prepare(settings: tuple[Setting, ...], option: str) -> None:
    """See to it that `Group` will find a place. For a process that has no children yet, and has done nothing yet.

    Where only systemd can give one, this program is started anew, in a scope of its own. RuntimeUnavailable, which
    names the option, where that is not possible either.
    """
    tree = tree_of()
    place = find_place(tree, controllers(settings), os.getpid(), managed=has_systemd())
    try:
        if isinstance(place, str):
            from hpcc.runtime.scope import enter_scope

            why = enter_scope(tree)
            hint = _VERSION1 if "of version 1" in place else _NOT_GIVEN if "not been given" in place else _HINT
            raise RuntimeUnavailable(f"{option}: {place}" + (f"; {why}" if why else ""), hint=hint)
        if place.alone:
            os.makedirs(f"{place.path}/{_BESIDE}", exist_ok=True)
            _write(f"{place.path}/{_BESIDE}/cgroup.procs", "0")
        if place.enable:
            _write(f"{place.path}/cgroup.subtree_control", " ".join(f"+{name}" for name in place.enable))
    except OSError as error:
        raise RuntimeUnavailable(f"{option}: {error.filename}: {error.strerror}", hint=_HINT) from None


def has_systemd() -> bool:
    """As sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


class Group:
    """A cgroup with limits, and the process that stays beside it."""

    def __init__(self, settings: tuple[Setting, ...], option: str) -> None:
        """Make it. RuntimeUnavailable where there is no place, or where the kernel does not take a value."""
        place = find_place(tree_of(), controllers(settings), os.getpid(), managed=has_systemd(), ready=True)
        if isinstance(place, str):
            raise RuntimeUnavailable(f"{option}: {place}", hint=_HINT)
        self._memory = next((int(each.text) for each in settings if each.file == "memory.max"), 0)
        self.path = place.path
        try:
            sweep(place.path)
            self.path = _make(place.path)
            for setting in settings:
                self._set(setting)
        except OSError as error:
            if self.path != place.path:
                _remove(self.path)
            raise RuntimeUnavailable(
                f"{option}: {error.filename}: {error.strerror}", hint="Is that a value that this host can give?"
            ) from None

    def _set(self, setting: Setting) -> None:
        path = f"{self.path}/{setting.file}"
        if not os.path.exists(path) and setting.instead[0]:
            path, text = f"{self.path}/{setting.instead[0]}", setting.instead[1]
        else:
            text = setting.text
        _write(path, text)
        if setting.file.startswith("cpuset."):  # version 2 takes any number, and uses those that there are
            has = members(" ".join(_words(f"{path}.effective")))
            if not members(text) <= has:
                raise OSError(errno.ERANGE, f"{text} is not within {' '.join(_words(path + '.effective'))}", path)

    def enter(self) -> None:
        """Move the calling process into it."""
        _write(f"{self.path}/cgroup.procs", "0")

    def end(self, tell: Callable[[str], None]) -> None:
        """Tell of limits that were hit, and remove it. What has survived the payload stays in it until it ends."""
        killed = _count(f"{self.path}/memory.events", "oom_kill")
        if killed:
            size = f"{self._memory >> 20} MiB" if self._memory >= 1 << 20 else f"{self._memory} bytes"
            told = f" of {size}" if self._memory else ""
            tell(f"the limit{told} of memory was hit, and the kernel killed {killed} process{'es' * (killed > 1)}")
        if refused := _count(f"{self.path}/pids.events", "max"):
            tell(f"the limit of processes was hit, {refused} time{'s' * (refused > 1)}")
        deadline = time.monotonic() + _PATIENCE
        while not _remove(self.path) and not _words(f"{self.path}/cgroup.procs") and time.monotonic() < deadline:
            time.sleep(0.01)


def open_group(pid: int) -> int | None:
    """A descriptor of cgroup.procs of the cgroup that hpcc has made for that process; None where it made none.

    Who writes "0" to it, enters. PermissionError where this process may not.
    """
    tree = tree_of(pid)
    name = os.path.basename(tree.name)
    if not tree.directories or not name.startswith(_PREFIX) or name == _BESIDE or name.endswith(".scope"):
        return None
    above = next((each for each in tree_of().directories if each in tree.directories), "")
    procs = f"{above}/cgroup.procs"
    if not above or not os.access(procs, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), procs)
    return os.open(f"{tree.directories[0]}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def sweep(place: str) -> None:
    """Remove cgroups that a killed hpcc has left in a place."""
    for name in os.listdir(place):
        pid = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            _remove(f"{place}/{name}")


def members(text: str) -> frozenset[int]:
    """`0-2,7` -> {0, 1, 2, 7}"""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.strip():
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _make(place: str) -> str:
    number = 0
    while True:
        path = f"{place}/{_PREFIX}{os.getpid()}-{number}"
        try:
            os.mkdir(path, 0o755)
            return path
        except FileExistsError:  # of a process with our number in another PID namespace
            number += 1


def _remove(path: str) -> bool:
    """Remove a cgroup and those that the payload has made in it; False where one of them has processes."""
    try:
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _count(path: str, name: str) -> int:
    words = _words(path)
    return int(words[words.index(name) + 1]) if name in words else 0


def _write(path: str, text: str) -> None:
    """OSError names the path."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().split()
    except OSError:
        return []
