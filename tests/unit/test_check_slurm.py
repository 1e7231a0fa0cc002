"""What `hpcc doctor --slurm` says of a configuration, and of what a job found."""

import pytest

from hpcc.cli.checks import FAILS, GAP, INFO, OK, Finding, table
from hpcc_slurm.check_slurm import of_config, of_job, parse_config, propagates
from hpcc_slurm.node_facts import Facts

GOOD = {
    "slurm_version": "23.11.4", "proctracktype": "proctrack/cgroup", "taskplugin": "task/affinity,task/cgroup",
    "prologflags": "Alloc,Contain", "jobcontainertype": "job_container/tmpfs", "mpidefault": "pmix",
    "requeueexit": "75", "killwait": "30 sec", "propagateresourcelimitsexcept": "MEMLOCK", "grestypes": "gpu",
}  # fmt: skip
FACTS = Facts("n1", True, True, True, -1, "/tmp", True, False, "/local/hpcc-1", "xfs", "", "0::/job", "0", 4, False)


def states(**more: str) -> dict[str, str]:
    return {finding.what: finding.state for finding in of_config({**GOOD, **more})}


def test_a_good_one_has_no_gap() -> None:
    assert set(states().values()) == {OK} and len(states()) == 10
    assert list(table([*of_config(GOOD), *of_job(FACTS, GOOD)]))[-1] == "\nNothing is missing."


@pytest.mark.parametrize(
    ("key", "value", "what", "state", "words"),
    [
        ("proctracktype", "proctrack/linuxproc", "process tracking", GAP, "daemons"),
        ("proctracktype", "proctrack/pgid", "process tracking", GAP, "process group"),
        ("taskplugin", "task/none", "tasks", GAP, "more cores"),
        ("constraindevices", "no", "tasks", GAP, "GPUs"),
        ("prologflags", "", "PrologFlags", INFO, "Contain"),
        ("jobcontainertype", "job_container/none", "private /tmp", INFO, "all users'"),
        ("mpidefault", "none", "MpiDefault", GAP, "size 1"),
        ("requeueexit", "", "RequeueExit", INFO, "75"),
        ("killwait", "3 sec", "KillWait", GAP, "no time"),
        ("propagateresourcelimitsexcept", "", "limits of a job", GAP, "InfiniBand"),
        ("grestypes", "", "GPUs", INFO, "no gpu"),
        ("slurm_version", "22.05.8", "Slurm", INFO, "bundle"),
    ],
)
def test_each_gap(key: str, value: str, what: str, state: str, words: str) -> None:
    (found,) = [finding for finding in of_config({**GOOD, key: value}) if finding.what == what]
    assert found.state == state and words in found.said + found.cost, found
    assert bool(found.cost) == bool(found.remedy) == (state == GAP)
    others = {name: each for name, each in states(**{key: value}).items() if name != what}
    assert set(others.values()) == {OK}


def test_limits() -> None:
    def said(some: str = "", but: str = "") -> bool:
        return propagates({"propagateresourcelimits": some, "propagateresourcelimitsexcept": but}, "MEMLOCK")

    assert said() and said("ALL") and said("CORE,MEMLOCK") and said(but="CORE")
    assert not any((said("NONE"), said("CORE"), said(but="MEMLOCK"), said("ALL", "core,memlock"), said(but="ALL")))


@pytest.mark.parametrize(
    ("change", "what", "state"),
    [
        ({"mounts": False}, "in a job: namespaces", FAILS),
        ({"memlock": 8 << 20}, "in a job: MEMLOCK", GAP),
        ({"node_dir": "/tmp/hpcc-1"}, "in a job: node dir", GAP),
        ({"node_dir": "/var/tmp/hpcc-1", "own_var_tmp": True}, "in a job: node dir", GAP),
        ({"visible_gpus": None}, "in a job: GPUs", GAP),
        ({"visible_gpus": None, "gpu_nodes": 0}, "in a job: GPUs", INFO),
        ({"own_tmp": False}, "in a job: TMPDIR", INFO),
        ({"own_tmp": False, "tmpdir": "/local/job7"}, "in a job: TMPDIR", OK),
        ({"selinux": "system_u:system_r:unconfined_t:s0"}, "in a job: SELinux", INFO),
    ],
)
def test_in_a_job(change: dict[str, object], what: str, state: str) -> None:
    found = {finding.what: finding for finding in of_job(FACTS._replace(**change), GOOD)}  # type: ignore[arg-type]
    assert found[what].state == state, found
    assert bool(found[what].cost) == (state in (GAP, FAILS))


def test_what_scontrol_prints() -> None:
    text = "Configuration data as of x\nKillWait                = 3 sec\nPrologFlags             = (null)\nA = b=c\n"
    assert parse_config(text) == {"killwait": "3 sec", "prologflags": "", "a": "b=c"}


def test_the_table_has_80_columns() -> None:
    long = "a long text with many words " * 10
    lines = "\n".join(table([Finding("x", GAP, long, long, long), Finding("y", FAILS, long, long, long)])).splitlines()
    assert max(map(len, lines)) <= 80
    worst, other = (next(at for at, line in enumerate(lines) if line.startswith(mark)) for mark in ("!!  y:", "--  x:"))
    assert worst < other
