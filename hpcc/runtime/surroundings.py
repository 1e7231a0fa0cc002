"""What `hpcc doctor` looks at beside what a run probes (host.py): ids, cgroups, limits, places, the user database."""

from __future__ import annotations

import os
import platform
import resource
import stat
import time
from itertools import pairwise
from typing import NamedTuple

from hpcc.cache.filesystem import LOCAL, filesystem_of
from hpcc.runtime.accounts import LIMIT, find_account
from hpcc.runtime.host import (
    APPTAINER_LIBEXEC,
    Host,
    find_program,
    find_programs,
    may_join,
    may_mount_proc,
    program_help,
)
from hpcc.runtime.obstacles import Knobs, read_knobs
from hpcc.runtime.subids import Range, parse_range
from hpcc.settings import Settings


class Program(NamedTuple):
    """A program that is there, or path "". `privileged`: set-user-id root, or with capabilities, and that counts."""

    path: str
    version: str = ""
    privileged: bool = False


class Cgroups(NamedTuple):
    """kind: v2, hybrid, v1 or "". `delegated`: controllers that we can give to groups of our own, below `path`."""

    kind: str
    path: str = ""
    delegated: tuple[str, ...] = ()
    by_systemd: bool = False  # not here, but in what `systemd-run --user --scope` starts


class Place(NamedTuple):
    """A directory: the kind of its filesystem, whether that is this host's own, and bytes that are free."""

    path: str
    filesystem: str
    local: bool
    free: int


class Surroundings(NamedTuple):
    uid: int
    user: str  # "" where the user database does not have us
    answered_in: float  # seconds that it took
    kernel: str
    distribution: str
    python: str
    host: Host
    knobs: Knobs
    own_proc: bool
    joins: bool
    fuse_device: str  # "", "missing", or "closed"
    squashfuse: Program
    fuse_overlayfs: Program
    fuse2fs: Program
    newuidmap: Program
    newgidmap: Program
    subuids: Range | None
    subgids: Range | None
    no_new_privs: bool
    cgroups: Cgroups
    apparmor: str  # our profile; "" where there is no AppArmor
    selinux: str  # our context, or "on"; "" where there is no SELinux
    limits: dict[str, int]  # soft ones, -1: none
    node: Place
    node_problem: str  # why it cannot be; "" where it can
    cache: Place


def look_around(settings: Settings, host: Host, directory: str, node_problem: str = "") -> Surroundings:
    """All of it. `directory`: of ours, to try mounts on. Takes as long as the user database does, but not longer."""
    uid = os.getuid()
    started = time.monotonic()
    entry = find_account(uid, (os.getgid(), *os.getgroups()), lambda: settings.node_dir).entry
    answered_in = time.monotonic() - started
    squashfuse, overlayfs = find_programs(settings)
    newuidmap, newgidmap = (find_program(name, settings, ("/usr/bin", "/bin")) for name in ("newuidmap", "newgidmap"))
    user = entry.name if entry else ""
    limits = ("NOFILE", "NPROC", "FSIZE", "AS")
    return Surroundings(
        uid=uid,
        user=user,
        answered_in=answered_in,
        kernel=os.uname().release,
        distribution=_distribution(),
        python=platform.python_version(),
        host=host,
        knobs=read_knobs(),
        own_proc=host.root or not host.mounts or may_mount_proc(host.root, directory),
        joins=not host.mounts or may_join(host.root),
        fuse_device=_fuse_device(),
        squashfuse=_program(squashfuse, "--help", "squashfuse"),
        fuse_overlayfs=_program(overlayfs, "--version", "version"),
        fuse2fs=_program(find_program("fuse2fs", settings, APPTAINER_LIBEXEC), "-V", "fuse2fs"),
        newuidmap=Program(newuidmap, privileged=is_privileged(newuidmap)),
        newgidmap=Program(newgidmap, privileged=is_privileged(newgidmap)),
        subuids=_range("/etc/subuid", user, uid),
        subgids=_range("/etc/subgid", user, uid),
        no_new_privs=_status("NoNewPrivs") == "1",
        cgroups=cgroups(uid),
        apparmor=_apparmor(),
        selinux=_selinux(),
        limits={name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in limits},
        node=place(settings.node_dir),
        node_problem=node_problem,
        cache=place(settings.cache_dir),
    )


def _program(path: str, option: str, word: str) -> Program:
    return Program(path, version_in(program_help(path, option), word) if path else "")


def slow_database(answered_in: float) -> bool:
    """Whether it did not answer in the time that it gets."""
    return answered_in >= LIMIT


def place(path: str) -> Place:
    """Of a directory, or of the nearest one above it that is there."""
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    room = os.statvfs(there)
    kind = filesystem_of(there)
    return Place(path, kind, kind in LOCAL, room.f_bavail * room.f_frsize)


def version_in(text: bytes, word: str) -> str:
    """What follows `word` in what a program prints, if it looks like a version. Pure."""
    words = text.decode(errors="replace").split()
    for before, after in pairwise(words):
        if before == word and after[:1].isdigit():
            return after
    return ""


def is_privileged(path: str) -> bool:
    """Whether a program runs with root's rights: by its mode or its capabilities, on a mount where these count."""
    try:
        status = os.stat(path)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return False
        if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
            return True
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def cgroups(uid: int, root: str = "/") -> Cgroups:
    """Of this process; or of a tree that plays a host, below `root`."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8", errors="replace") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file if line.count(":") >= 2]
        with open(os.path.join(root, "proc/self/mountinfo"), encoding="utf-8", errors="replace") as file:
            mounts = [(line.split(" ")[4], line.partition(" - ")[2].split(" ")[0]) for line in file]
    except (OSError, IndexError):
        return Cgroups("")
    points = [point for point, kind in mounts if kind == "cgroup2"]
    first = any(kind == "cgroup" for _, kind in mounts)
    if not points:
        return Cgroups("v1" if first else "")
    own = next((path for number, _, path in rows if number == "0"), "/")
    here = os.path.join(root, points[0].lstrip("/"))
    path = os.path.join(here, own.lstrip("/"))
    delegated = _delegated(path)
    service = os.path.join(here, f"user.slice/user-{uid}.slice/user@{uid}.service")
    by_systemd = not delegated and bool(_delegated(service))
    return Cgroups("hybrid" if first else "v2", own, delegated or _delegated(service), by_systemd)


def _delegated(path: str) -> tuple[str, ...]:
    """Controllers of a group that we may divide."""
    if not all(os.access(os.path.join(path, name), os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control")):
        return ()
    try:
        with open(os.path.join(path, "cgroup.controllers"), encoding="ascii") as file:
            return tuple(file.read().split())
    except OSError:
        return ()


def _range(path: str, user: str, uid: int) -> Range | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_range(file.read(), user, uid)
    except OSError:
        return None


def _fuse_device() -> str:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "closed"
    return ""


def _status(name: str) -> str:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""


def _apparmor() -> str:
    if _text("/sys/module/apparmor/parameters/enabled").strip() != "Y":
        return ""
    return (_text("/proc/self/attr/apparmor/current") or _text("/proc/self/attr/current")).strip(
        "\0\n "
    ) or "unconfined"


def _selinux() -> str:
    if not os.path.exists("/sys/fs/selinux/enforce"):
        return ""
    return _text("/proc/self/attr/current").strip("\0\n ") or "on"


def _distribution() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
