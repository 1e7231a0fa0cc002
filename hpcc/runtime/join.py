"""Run a command in an instance: enter its namespaces, and go on where a run goes on after its root is there.

    hpcc exec instance://NAME …     joins the user and PID namespaces, and stays beside
      child                           joins the others, drops privileges, becomes the command

The command is no child of the instance's process 1, but in its PID namespace: it ends when the instance does. It also
ends when hpcc beside it is killed.
"""

from __future__ import annotations

import os
import signal

from hpcc.errors import RuntimeUnavailable
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import plan
from hpcc.runtime.enter import node_directory
from hpcc.runtime.hold import enter_namespaces
from hpcc.runtime.host import known_host
from hpcc.runtime.instance import Instance
from hpcc.runtime.launch import Launcher, die_with_parent
from hpcc.runtime.register import Register, no_instance
from hpcc.runtime.rootfs import Rootfs, Rung
from hpcc.runtime.supervise import block_signals, release_signals, supervise
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST = ("user", "pid")  # the others need the capabilities of the first; the second is of children only
_THEN = ("ipc", "uts", "net", "cgroup", "mnt")


def join_instance(
    instance: Instance,
    register: Register,
    ops: tuple[plan.Op, ...],
    settings: Settings,
    tell: Callable[[str], None],
) -> int:
    """Do the `ops` of `plan_join`. Returns only in a process that stayed beside the command: the command's status.

    tell: hears what the user should know.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if any(isinstance(op, plan.Confine) for op in ops):
        import hpcc.runtime.confine  # noqa: F401, since nothing can be imported any more once we are in there
    host = known_host(settings, node_directory(settings))
    process = register.process(instance, instance.pid)
    if process is None:
        raise no_instance(instance.name, register)
    rung = Rung("instance", False, instance.nested, "")
    if _differs(process, "user"):
        host = host._replace(root=False)
    joiner = _Joiner(Rootfs("instance", instance.path), rung, host, "", os.getuid(), os.getgid(), tell)
    return joiner.join(process, ops, _limits_of(instance.pid, tell))


class _Joiner(Launcher):
    """Carries out what comes after Join, in the namespaces of a process."""

    def join(self, process: int, ops: tuple[plan.Op, ...], limits: int | None) -> int:
        """Enter those of the process whose directory in /proc is `process`; `ops` are Join and what follows it.

        limits: the cgroup.procs to enter, open.
        """
        first, then = ([kind for kind in kinds if _differs(process, kind)] for kinds in (_FIRST, _THEN))
        try:
            again = os.dup(process)
            _enter(process, first)
            mask = block_signals()
            alive, parent = os.pipe()
            child = os.fork()
            if child:
                os.close(again)
                return supervise(child, bare=False)
            die_with_parent(alive, parent, signal.SIGKILL)
            self._dies_with_parent = True
            if limits is not None:
                os.write(limits, b"0")
                os.close(limits)
            _enter(again, then)
        except OSError as error:
            name = ops[0].instance if isinstance(ops[0], plan.Join) else ""
            raise RuntimeUnavailable(
                f"cannot enter the namespaces of instance {name}: {error.strerror}",
                hint="It must be yours, on this host. Where setns is forbidden, as in many containers, nobody can.",
            ) from None
        self._release_signals = lambda: release_signals(mask)
        return self.run(ops[1:])


def _limits_of(pid: int, tell: Callable[[str], None]) -> int | None:
    """cgroup.procs of the cgroup that hpcc has made for the instance with process 1 `pid`, open; None: it has none.

    Where only systemd lets us enter it, this program starts anew in a scope.
    """
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        if "/hpcc-" not in file.read():
            return None
    from hpcc.runtime.cgroups import open_group, tree_of
    from hpcc.runtime.scope import enter_scope

    try:
        return open_group(pid)
    except OSError as error:
        why = enter_scope(tree_of())
        tell(
            f"the instance's limits do not hold for this command: {error.filename}: {error.strerror}; {why}".rstrip(
                "; "
            )
        )
        return None


def _differs(process: int, kind: str) -> bool:
    """Whether the process is in another namespace of that kind than we are."""
    there, here = os.stat(f"ns/{kind}", dir_fd=process), os.stat(f"/proc/self/ns/{kind}")
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def _enter(process: int, kinds: list[str]) -> None:
    if kinds and not enter_namespaces(process, tuple(kinds)):
        raise PermissionError(1, os.strerror(1))
