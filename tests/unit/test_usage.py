"""What an instance uses, read from a cgroup of its own; which cgroup is its own."""

import os

import pytest

from hpcc.runtime import usage
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.instance import Instance

ME = os.getpid()
GROUP = "/sys/fs/cgroup/user.slice/run-1.scope"
FILES = {
    f"/proc/{ME}/cgroup": ["0::/user.slice/run-1.scope"],
    "/proc/71/comm": ["squashfuse_ll"],
    "/proc/72/comm": ["bash"],
    f"{GROUP}/cgroup.procs": ["70", str(ME), "71", "73"],  # the keeper, process 1, its daemon, one that has just ended
    f"{GROUP}/cpu.stat": ["usage_usec 1500", "user_usec 1000", "system_usec 500"],
    f"{GROUP}/memory.current": ["4096000"],
    f"{GROUP}/memory.max": ["8192000"],
    f"{GROUP}/io.stat": ["8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0", "8:16 rbytes=1 wbytes=2"],
    f"{GROUP}/pids.current": ["3"],
    f"{GROUP}/pids.max": ["max"],
}
INSTANCE = Instance("web", "/i.sif", "/i.sif", RunConfig(), "/home/alice", keeper=70, pid=ME)


def read(monkeypatch: pytest.MonkeyPatch, changes: dict[str, list[str]]) -> usage.Usage:
    files = {**FILES, **changes}
    monkeypatch.setattr(usage, "_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(usage, "_processes", lambda instance: [instance.pid])
    return usage.usage(INSTANCE)


def test_a_cgroup_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, {}) == usage.Usage("cgroup", 1_500_000, 4096000, 8192000, 101, 22, 3, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {f"{GROUP}/cgroup.procs": ["70", str(ME), "72"]},  # somebody else's shell
        {f"/proc/{ME}/cgroup": ["0::/"], "/sys/fs/cgroup//memory.current": ["1"]},
        {f"/proc/{ME}/cgroup": ["4:memory:/job"]},  # version 1
        {f"{GROUP}/memory.current": []},
    ],
    ids=["shared", "top", "version 1", "no memory controller"],
)
def test_else_its_processes(monkeypatch: pytest.MonkeyPatch, changes: dict[str, list[str]]) -> None:
    found = read(monkeypatch, changes)
    assert found.source == "proc" and found.processes == 1 and found.memory > 1 << 20 and found.cpu > 0


def test_no_limit_is_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, {f"{GROUP}/memory.max": ["max"], f"{GROUP}/pids.max": ["100"]})
    assert found.limit == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") and found.most == 100
