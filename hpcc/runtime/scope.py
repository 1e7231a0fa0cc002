"""A scope of systemd's: a cgroup that it delegates, in which this program starts anew.

For login sessions, whose cgroups are root's. The cgroup of a batch job is never left, since its limits and its
accounts are the batch system's.
"""

from __future__ import annotations

import os
import sys
import time

from hpcc.records import TYPE_CHECKING
from hpcc.runtime.cgroups import has_systemd, own_limit

if TYPE_CHECKING:
    from hpcc.runtime.cgroups import Tree

_PROGRAM = "/usr/bin/systemd-run"
_INVOCATION = "INVOCATION_ID"  # systemd-run sets it, and it is nobody's business in the container


def enter_scope(tree: Tree) -> str:
    """Become this program in a new scope. Returns only where that is not possible: why; "" where nobody expects it."""
    uid = os.getuid()
    parts = tree.name.split("/")
    if not has_systemd() or parts[1:2] != ["user.slice"] or parts[-1].startswith("hpcc-"):
        return ""
    for directory in tree.directories:
        if uid and os.path.basename(directory) == f"user-{uid}.slice":
            break  # the new scope is below it as well; root's is in system.slice
        if own_limit(directory):
            return ""
    unit = f"hpcc-{os.getpid()}-{time.monotonic_ns():x}"
    command = [_PROGRAM, *(["--user"] if uid else []), "--scope", "--collect", "--property=Delegate=yes"]
    why = _try([*command, f"--unit={unit}-try", "--", "/bin/true"])
    if why:
        return why
    old = os.environ.get(_INVOCATION)
    same = ["/usr/bin/env", *(["-u", _INVOCATION] if old is None else [f"{_INVOCATION}={old}"])]
    argv = [*command, "--quiet", f"--unit={unit}", "--", *same, sys.executable, *sys.orig_argv[1:]]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        os.execv(_PROGRAM, argv)
    except OSError as error:
        return f"{_PROGRAM}: {error.strerror}"


def _try(argv: list[str]) -> str:
    """What the command complains of; "" where it succeeds."""
    if not os.access(argv[0], os.X_OK):
        return f"there is no {argv[0]} to ask"
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
    os.close(null)
    os.close(write)
    with open(read, "rb") as file:
        said = file.read(1 << 16).decode("utf-8", "replace").strip().split("\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if status == 0 else f"systemd-run: {said[-1] or f'status {status}'}"
