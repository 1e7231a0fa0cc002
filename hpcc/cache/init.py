"""Make a directory the cache of a group.

DIR                  3770, of the group: setgid and sticky, so that nobody replaces another's object
  policy.toml        whose objects are run: those of the group's members
  sif-v1 …           made at once, so that they are the owner's: in a sticky directory only a file's owner and the
                     directory's may remove it, and garbage collection is the owner's affair
"""

import grp
import json
import os
import stat

from hpcc.cache import walk
from hpcc.cache.layout import Cache, explained
from hpcc.errors import CacheError, UsageError
from hpcc.records import NamedTuple

TOP = (
    "sif-v1", "packs-v1", "oci", "oci/blobs", "oci/blobs/sha256", "refs", "uses", "pins", "roots", "limits", "locks",
    "tmp", "trash",
)  # fmt: skip
_KNOWN = {*(name.partition("/")[0] for name in TOP), "runs", "policy.toml"}
OPEN_TO_ALL = ("oci", "locks")  # not sticky, see layout.py
MODE, OPEN_MODE = 0o3770, 0o2770


class Made(NamedTuple):
    """The group's cache, and the directories above it that its members cannot pass through."""

    path: str
    group: str
    closed: tuple[str, ...]


def init_group_cache(path: str, group: str) -> Made:
    """Make `path` the cache of a group, or one's own cache there. Idempotent; what is in a cache stays.

    UsageError for a group that does not exist or that this user is not in, and for a directory that holds something
    else. CacheError where it belongs to somebody else, or cannot be made.
    """
    gid = _group_id(group)
    path = os.path.realpath(path)
    cache = Cache(path)
    with explained(path):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise CacheError(f"{os.path.dirname(path)} is not there", hint="Make it first, or name another.") from None
        _check(path)
        with walk.opened(cache) as fd:
            _open_up(fd, gid, MODE)
        for name in TOP:
            cache.make_directory(name)
            _convert(cache, name, gid)
    _write_policy(cache, group)
    return Made(path, group, tuple(_closed_above(path, gid)))


def _group_id(group: str) -> int:
    mine = sorted({*os.getgroups(), os.getegid()})
    names = []
    for gid in mine:
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    hint = f"Your groups: {', '.join(names)}."
    try:
        found = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group!r}", hint=hint) from None
    if found not in mine and os.geteuid() != 0:
        raise UsageError(f"you are not in the group {group}", hint=f"{hint} After you were added, log in again.")
    return found


def _check(path: str) -> None:
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path} is no directory", hint="Name a new directory, or an empty one.")
    if status.st_uid != os.geteuid():
        raise CacheError(f"{path} belongs to somebody else (uid {status.st_uid})", hint="Its owner can do this.")
    foreign = sorted(set(os.listdir(path)) - _KNOWN)
    if foreign:
        raise UsageError(
            f"{path} is not empty, and no cache of hpcc: it holds {', '.join(foreign[:3])}",
            hint="Name a new directory, or an empty one.",
        )


def _open_up(fd: int, gid: int, mode: int) -> None:
    """Give the open directory to the group, if it is ours. After the chown, which may drop setgid."""
    if os.fstat(fd).st_uid == os.geteuid():
        os.fchown(fd, -1, gid)
        os.fchmod(fd, mode)


def _convert(cache: Cache, name: str, gid: int) -> None:
    """Open a directory up, and all of ours below it: a cache of one's own has them for oneself alone."""
    with walk.opened(cache, name) as fd:
        _open_up(fd, gid, OPEN_MODE if name in OPEN_TO_ALL else MODE)
    for path in walk.directories(cache, name):
        if path not in TOP:
            try:
                with walk.opened(cache, path) as fd:
                    _open_up(fd, gid, MODE)
            except OSError:
                continue  # gone meanwhile


def _write_policy(cache: Cache, group: str) -> None:
    """Have the policy name the group, beside whom it names already."""
    users, groups = Cache(cache.root).policy.names()
    if group not in groups:
        lines = [f"trusted_users = {json.dumps(list(users))}"] if users else []
        lines.append(f"trusted_groups = {json.dumps([*groups, group])}")
        cache.write(cache.path("policy.toml"), ("\n".join(lines) + "\n").encode(), mode=0o644)


def _closed_above(path: str, gid: int) -> list[str]:
    closed = []
    while (path := os.path.dirname(path)) != "/":
        status = os.stat(path)
        if not status.st_mode & (stat.S_IXGRP if status.st_gid == gid else stat.S_IXOTH):
            closed.append(path)
    return closed[::-1]
