"""What an instance uses: from its cgroup where it has one of its own, else from /proc of its processes.

A cgroup is the instance's own where nobody else is in it: as when a service manager or `systemd-run --scope` started
it. A job's or session's has others, whose use is not the instance's.
"""

from __future__ import annotations

import os

from hpcc.records import NamedTuple
from hpcc.runtime.instance import Instance

_DAEMONS: tuple[list[str], ...] = (
    ["hpcc-squashfs"],
    ["squashfuse_ll"],
    ["fuse-overlayfs"],
    [],
)  # that serve its root; [] has ended meanwhile
_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """Bytes and nanoseconds since it started. `source`: cgroup, or proc, which forgets the processes that have ended.

    limit: of memory; that of the host where there is no other. most: processes that there may be, 0: any number.
    """

    source: str
    cpu: int
    memory: int
    limit: int
    read: int
    written: int
    processes: int
    most: int = 0


def usage(instance: Instance) -> Usage:
    """What it uses now. OSError where it has ended."""
    pids = _processes(instance)
    group = _own_cgroup(instance, pids)
    return _of_cgroup(group) if group else _of_processes(pids)


def _processes(instance: Instance) -> list[int]:
    """Those in the instance's PID namespace, as seen from here."""
    mine = os.readlink(f"/proc/{instance.pid}/ns/pid")
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == mine:
                    found.append(int(name))
            except OSError:
                continue
    return found


def _own_cgroup(instance: Instance, pids: list[int]) -> str:
    """The directory of its cgroup (version 2), "" where it shares one with others, or memory is not counted in it."""
    for line in _lines(f"/proc/{instance.pid}/cgroup"):
        if line.startswith("0::"):
            path = f"/sys/fs/cgroup{line[3:]}"
            members = {int(member) for member in _lines(f"{path}/cgroup.procs")}
            if not _lines(f"{path}/memory.current"):
                continue
            strangers = members - {*pids, instance.keeper}
            if line != "0::/" and members and all(_lines(f"/proc/{pid}/comm")[:1] in _DAEMONS for pid in strangers):
                return path
    return ""


def _of_cgroup(path: str) -> Usage:
    blocks = [word.partition("=")[::2] for line in _lines(f"{path}/io.stat") for word in line.split()[1:]]
    cpu = dict(line.split() for line in _lines(f"{path}/cpu.stat"))
    return Usage(
        "cgroup",
        int(cpu.get("usage_usec", 0)) * 1000,
        _number(f"{path}/memory.current"),
        _number(f"{path}/memory.max") or _host_memory(),
        sum(int(value) for name, value in blocks if name == "rbytes"),
        sum(int(value) for name, value in blocks if name == "wbytes"),
        _number(f"{path}/pids.current") or len(_lines(f"{path}/cgroup.procs")),  # where pids are not counted
        _number(f"{path}/pids.max"),
    )


def _of_processes(pids: list[int]) -> Usage:
    cpu = memory = read = written = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        cpu += sum(map(int, fields[11:15])) * _TICK  # its own, and of its children that were waited for
        memory += _memory(pid, int(fields[21]) * _PAGE)
        counts = dict(line.split(": ") for line in _lines(f"/proc/{pid}/io"))
        read += int(counts.get("read_bytes", 0))
        written += int(counts.get("write_bytes", 0))
    return Usage("proc", cpu, memory, _host_memory(), read, written, len(pids))


def _memory(pid: int, resident: int) -> int:
    """Its share of what it has in memory: what n processes have together counts as 1/n for each."""
    for line in _lines(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return resident


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str) -> int:
    """0 also for `max`, which is no limit."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else 0
