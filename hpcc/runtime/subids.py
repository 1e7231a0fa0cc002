"""Subordinate ids: which a user has, and a user namespace with them, where he is root and others exist beside him.

/etc/subuid, /etc/subgid    NAME-or-UID:START:COUNT        subuid(5)
inside                      0 is the caller; 1 to COUNT are START to START + COUNT - 1
"""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.host import enter_user_namespace, find_program

if TYPE_CHECKING:
    from hpcc.settings import Settings


class Range(NamedTuple):
    start: int
    length: int


class Subids(NamedTuple):
    """The first range of each kind, and the programs that map them (setuid, of the package uidmap)."""

    uids: Range
    gids: Range
    newuidmap: str
    newgidmap: str


def find_subids(user: str, uid: int, settings: Settings, directory: str = "/etc") -> Subids | None:
    """What the user has; None where there are no ranges, or no programs to map them."""
    programs = [find_program(name, settings, ("/usr/bin", "/bin")) for name in ("newuidmap", "newgidmap")]
    ranges = []
    for name in ("subuid", "subgid"):
        try:
            with open(f"{directory}/{name}", encoding="utf-8", errors="replace") as file:
                ranges.append(parse_range(file.read(), user, uid))
        except OSError:
            ranges.append(None)
    if not all(programs) or ranges[0] is None or ranges[1] is None:
        return None
    return Subids(ranges[0], ranges[1], *programs)


def parse_range(text: str, user: str, uid: int) -> Range | None:
    """The first range of a user, named or by number. What does not parse is skipped, as newuidmap does. Pure."""
    for line in text.splitlines():
        name, *numbers = line.strip().split(":")
        if name in (user, str(uid)) and len(numbers) == 2 and all(each.isdecimal() for each in numbers):
            start, count = map(int, numbers)
            if count:
                return Range(start, count)
    return None


def enter_as_root(subids: Subids | None) -> bool:
    """A user namespace in which the caller is root, with others beside him where there are ids for them.

    Whether there are. Real root needs no programs: each id is itself. OSError where the host allows no namespace.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 and subids is None:
        enter_user_namespace(0, 0)
        return False
    asked, go = os.pipe()
    me, child = os.getpid(), os.fork()
    if child == 0:  # in the old namespace, where it may map the new one
        status = 1
        try:
            os.close(go)
            os.read(asked, 1)
            status = _map(me, uid, gid, subids)
        except OSError:
            pass
        finally:
            os._exit(status)
    os.close(asked)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    finally:
        os.close(go)
        status = os.waitpid(child, 0)[1]
    if status == 0:
        return True
    _map_caller_alone(uid, gid)
    return False


def _map(pid: int, uid: int, gid: int, subids: Subids | None) -> int:
    if subids is None:
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write("0 0 4294967295")
        return 0
    for program, me, ids in ((subids.newuidmap, uid, subids.uids), (subids.newgidmap, gid, subids.gids)):
        argv = [program, str(pid), "0", str(me), "1", "1", str(ids.start), str(ids.length)]
        null = [(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
        if os.waitpid(os.posix_spawn(program, argv, os.environ, file_actions=null), 0)[1]:
            return 1
    return 0


def _map_caller_alone(uid: int, gid: int) -> None:
    """What needs no privilege, where newuidmap has refused. OSError where it has done half of its work."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
