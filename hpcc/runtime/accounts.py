"""Who calls, by the user database: a line of passwd, and the groups of this process that have names.

/etc/passwd and /etc/group are read first: a line there needs nobody's answer. Whom they do not have, the C library is
asked for (NSS: LDAP, SSSD, NIS), in a child with a time limit, since a server that is gone lets it hang for minutes.
The answer is kept in the node directory:

    account-v1     whole|part UID GID…            what was asked; part: the time was over
                   passwd line, or an empty one
                   group lines
"""

from __future__ import annotations

import os
import time

from hpcc.errors import CacheError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMIT = 3  # seconds that the user database gets
_FRESH = {"whole": 600, "part": 60}  # seconds for which an answer is good
_OVERFLOW = 65534  # a group that this user namespace has no id for
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


class Entry(NamedTuple):
    """A line of passwd(5)."""

    name: str
    gid: int
    gecos: str
    home: str
    shell: str


class Account(NamedTuple):
    """A user, None where the database does not have him, and (name, gid) of each group that it has."""

    entry: Entry | None
    groups: tuple[tuple[str, int], ...]


def find_account(uid: int, gids: Iterable[int], directory: Callable[[], str], etc: str = "/etc") -> Account:
    """The user, and of his login group and `gids` those with names, in this order. Within LIMIT; never fails.

    directory: where answers of others than files are kept; called where one is needed, and may raise CacheError.
    """
    gids = tuple(dict.fromkeys(gid for gid in gids if gid != _OVERFLOW))
    entry = parse_entry(_rows(f"{etc}/passwd"), uid)
    wanted = tuple(dict.fromkeys((entry.gid, *gids))) if entry else gids
    names = parse_groups(_rows(f"{etc}/group"), wanted)
    if entry is None or len(names) < len(wanted):
        answer = _answer(uid, wanted, directory)
        entry = entry or parse_entry(answer[:1], uid)
        wanted = tuple(dict.fromkeys((entry.gid, *gids))) if entry else gids
        names = {**parse_groups(answer[1:], wanted), **names}
    return Account(entry, tuple((names[gid], gid) for gid in wanted if gid in names))


def parse_entry(rows: Iterable[str], uid: int) -> Entry | None:
    """The first row of passwd(5) with that uid. Pure."""
    number = str(uid)
    for row in rows:
        fields = row.split(":")
        if len(fields) == 7 and fields[2] == number and fields[3].isdecimal():
            return Entry(fields[0], int(fields[3]), *fields[4:])
    return None


def parse_groups(rows: Iterable[str], gids: Iterable[int]) -> dict[int, str]:
    """gid -> name, by the first row of group(5) with each of these gids. Pure."""
    wanted = {str(gid) for gid in gids}
    found: dict[int, str] = {}
    for row in rows:
        fields = row.split(":", 3)
        if len(fields) > 2 and fields[2] in wanted:
            found.setdefault(int(fields[2]), fields[0])
    return found


def with_rows(content: bytes, rows: Iterable[tuple[int, str]]) -> bytes | None:
    """A passwd or group file with these rows, (id, row), whose id it does not have; None where it has all. Pure."""
    have = {fields[2] for line in content.split(b"\n") if len(fields := line.split(b":")) > 2}
    added = [os.fsencode(row) + b"\n" for number, row in rows if str(number).encode() not in have]
    if not added:
        return None
    return content + (b"" if not content or content.endswith(b"\n") else b"\n") + b"".join(added)


def _rows(path: str) -> list[str]:
    try:
        with open(path, **_ENCODING) as file:  # type: ignore[call-overload]
            return list(file.read().split("\n"))
    except OSError:
        return []


def _answer(uid: int, gids: tuple[int, ...], directory: Callable[[], str]) -> list[str]:
    """What the C library says: a line of passwd or "", and group lines. Kept, if there is a directory for it."""
    question = " ".join(map(str, (uid, *gids)))
    try:
        path = os.path.join(directory(), "account-v1")
    except CacheError:
        return _ask(uid, gids)[1]
    state, kept, age = _kept(path, question)
    if state and 0 <= age < _FRESH[state]:
        return kept
    state, rows = _ask(uid, gids)
    if state == "part" and kept:
        rows = [rows[0] or kept[0], *rows[1:], *kept[1:]]
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", **_ENCODING) as file:  # type: ignore[call-overload]
            file.write("\n".join((f"{state} {question}", *rows)))
        os.rename(temporary, path)
    except OSError:
        pass  # a directory that is full, or only read
    return rows


def _kept(path: str, question: str) -> tuple[str, list[str], float]:
    """(state, rows, seconds since) of the answer to this question; ("", [], 0) where there is none."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), **_ENCODING) as file:  # type: ignore[call-overload]
            age = time.time() - os.fstat(file.fileno()).st_mtime
            first, *rows = file.read().split("\n")
    except OSError:
        return "", [], 0
    state, _, asked = first.partition(" ")
    return (state, rows, age) if asked == question and state in _FRESH and rows else ("", [], 0)


def _ask(uid: int, gids: tuple[int, ...]) -> tuple[str, list[str]]:
    """("whole" or "part", rows), by a process that is nobody's child and ends by itself."""
    import select

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                _look_up(uid, gids, write)
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said, deadline = b"", time.monotonic() + LIMIT
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        part = os.read(read, 1 << 16)
        if not part:
            break
        said += part
    os.close(read)
    rows = said.decode(**_ENCODING).split("\n")
    if rows[-1] == ".":
        return "whole", rows[:-1]
    return "part", rows[:-1] or [""]


def _look_up(uid: int, gids: tuple[int, ...], write: int) -> None:
    """Write the rows, each as soon as it is known, and at last a dot."""
    import _signal  # type: ignore[import-not-found]  # unlike signal, it makes no enums
    import grp
    import pwd

    from hpcc.runtime.fuse import close_all_but

    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.alarm(LIMIT + 1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_all_but((0, 1, 2, write))
    try:
        entry = pwd.getpwuid(uid)
        fields = (entry.pw_name, "x", entry.pw_uid, entry.pw_gid, entry.pw_gecos, entry.pw_dir, entry.pw_shell)
        _write(write, ":".join(map(str, fields)))
        gids = (entry.pw_gid, *gids)
    except KeyError:
        _write(write, "")
    for gid in dict.fromkeys(gids):
        try:
            _write(write, f"{grp.getgrgid(gid).gr_name}:x:{gid}:")
        except KeyError:
            continue
    os.write(write, b".")


def _write(fd: int, row: str) -> None:
    os.write(fd, os.fsencode(row.replace("\n", " ")) + b"\n")
