"""What `hpcc doctor` makes of hosts that are made up: the state of each thing, what a gap costs, and what helps."""

from pathlib import Path
from typing import Any

import pytest

from hpcc.cli.doctor_report import apparmor_profile, table, without_logins
from hpcc.errors import RuntimeUnavailable
from hpcc.runtime.findings import FAILS, GAP, INFO, OK, Finding, findings
from hpcc.runtime.host import Host
from hpcc.runtime.obstacles import Knobs
from hpcc.runtime.rootfs import Rootfs, Rung, choose_rung
from hpcc.runtime.subids import Range
from hpcc.runtime.surroundings import Cgroups, Place, Program, Surroundings, cgroups, version_in

HOST = Host(False, True, True, True, "/usr/bin/squashfuse_ll", True, True, "/usr/bin/fuse-overlayfs", False)
ALL = ("cpuset", "cpu", "io", "memory", "pids")
PERFECT = Surroundings(
    uid=1000, user="alice", answered_in=0.002, kernel="6.12.0", distribution="Debian GNU/Linux 13", python="3.13.1",
    host=HOST, knobs=Knobs(max_user_namespaces=96365), own_proc=True, joins=True, fuse_device="",
    squashfuse=Program("/usr/bin/squashfuse_ll", "0.6.1"), fuse_overlayfs=Program("/usr/bin/fuse-overlayfs", "1.14"),
    fuse2fs=Program("/usr/bin/fuse2fs", "1.47.0"),
    newuidmap=Program("/usr/bin/newuidmap", "", True), newgidmap=Program("/usr/bin/newgidmap", "", True),
    subuids=Range(100000, 65536), subgids=Range(100000, 65536), no_new_privs=False,
    cgroups=Cgroups("v2", "/user.slice/x", ALL), apparmor="", selinux="",
    limits={"NOFILE": 65536, "NPROC": -1, "FSIZE": -1, "AS": -1},
    node=Place("/var/tmp/hpcc-1000", "xfs", True, 100 * 10**9), node_problem="",
    cache=Place("/scratch/hpcc", "lustre", False, 10**15),
)  # fmt: skip
NO_DEVICES: dict[str, Any] = {"nv": "", "nodes": [], "cdi": {}, "unreadable": []}
IMAGE = Rootfs("squashfs", "an image", owners=None)


def plans(host: Host) -> dict[str, Rung | RuntimeUnavailable]:
    found: dict[str, Rung | RuntimeUnavailable] = {}
    for what in ("read-only", "writable"):
        try:
            found[what] = choose_rung(host, IMAGE, writable=what == "writable")
        except RuntimeUnavailable as error:
            found[what] = error
    return found


def of(seen: Surroundings, devices: dict[str, Any] = NO_DEVICES) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(seen, plans(seen.host), devices)}


def test_a_host_that_lacks_nothing() -> None:
    found = of(PERFECT)
    assert {finding.state for finding in found.values()} == {OK, INFO}
    assert found["cgroups"].said == "v2, delegated: cpuset cpu io memory pids"
    assert found["ids of --fakeroot"].said == "65536 users, 65536 groups"
    assert not any(finding.cost or finding.remedy for finding in found.values())
    lines = list(table(list(found.values()), {"read-only": "squashfuse"}, []))
    assert lines[-1] == "\nNothing is missing."


CASES: list[tuple[dict[str, Any], dict[str, Any], str, str, str, str]] = [
    # changes of the host, of its surroundings, what, state, in its cost, in its remedy
    ({"user_namespaces": False, "mounts": False}, {}, "user namespaces", FAILS, "No container", "max_user_namespaces"),
    ({"user_namespaces": False, "mounts": False}, {"knobs": Knobs(max_user_namespaces=0)}, "user namespaces", FAILS,
     "No container", "sysctl -w user.max_user_namespaces"),
    ({"user_namespaces": False, "root": True}, {}, "user namespaces", GAP, "--fakeroot", "max_user_namespaces"),
    ({"mounts": False}, {}, "mounts in them", FAILS, "No container", "security module"),
    ({"mounts": False}, {"knobs": Knobs(apparmor_restricts=1), "apparmor": "unconfined"}, "AppArmor", FAILS,
     "no containers", "--apparmor-profile"),
    ({}, {"own_proc": False}, "PID namespaces", GAP, "--compat", "systempaths"),
    ({}, {"joins": False}, "joining (setns)", GAP, "instance://", "setns"),
    ({"fuse": False, "squashfuse": "", "squash": False, "fuse_overlayfs": ""}, {"fuse_device": "missing"}, "FUSE", GAP,
     "unpacked", "--device /dev/fuse"),
    ({"fuse": False, "squashfuse": "", "squash": False, "fuse_overlayfs": ""}, {"fuse_device": "closed"}, "FUSE", GAP,
     "unpacked", "chmod 666"),
    ({"overlay": False}, {}, "kernel overlay", GAP, "fuse-overlayfs", "Linux 5.11"),
    ({"overlay": False, "fuse_overlayfs": ""}, {"fuse_overlayfs": Program("")}, "kernel overlay", GAP, "copy", "5.11"),
    ({"overlay": False, "fuse_overlayfs": ""}, {"fuse_overlayfs": Program("")}, "fuse-overlayfs", GAP, "memory",
     "Install"),
    ({}, {"subuids": None}, "ids of --fakeroot", GAP, "owners", "usermod --add-subuids"),
    ({}, {"newuidmap": Program("")}, "ids of --fakeroot", GAP, "owners", "uidmap"),
    ({}, {"newgidmap": Program("/usr/bin/newgidmap")}, "ids of --fakeroot", GAP, "owners", "shadow-utils"),
    ({}, {"no_new_privs": True}, "ids of --fakeroot", GAP, "owners", ""),
    ({}, {"cgroups": Cgroups("v1")}, "cgroups", GAP, "limits of its own", "unified_cgroup_hierarchy"),
    ({}, {"cgroups": Cgroups("v2", "/x", ("memory", "pids"))}, "cgroups", GAP, "limits of its own", "Delegate=cpu"),
    ({}, {"cgroups": Cgroups("v2", "/x", ALL, True)}, "cgroups", GAP, "limits of its own", "systemd-run --user"),
    ({}, {"knobs": Knobs(max_user_namespaces=9)}, "namespaces", GAP, "5th run", "15000"),
    ({}, {"limits": {"NOFILE": 256, "NPROC": -1, "FSIZE": -1, "AS": 1}}, "limits (ulimit)", GAP, "open files",
     "limits.conf"),
    ({}, {"limits": {"NOFILE": -1, "NPROC": 20, "FSIZE": -1, "AS": -1}}, "limits (ulimit)", GAP, "processes", "batch"),
    ({}, {"node": Place("/nfs/x", "nfs4", False, 10**12)}, "node directory", GAP, "all nodes", "HPCC_NODE_DIR"),
    ({"squashfuse": "", "fuse": False}, {"node": Place("/tmp/x", "tmpfs", True, 10**12)}, "node directory", GAP,
     "memory", "HPCC_NODE_DIR"),
    ({"squashfuse": "", "fuse": False}, {"node": Place("/x", "ext4", True, 10**9)}, "node directory", GAP, "fit",
     "node_dir"),
    ({}, {"node_problem": "cannot make /x"}, "node directory", FAILS, "No container", "HPCC_NODE_DIR"),
    ({}, {"cache": Place("/home/x", "nfs", False, 10**9)}, "cache", GAP, "room", "HPCC_CACHE_DIR"),
    ({}, {"user": ""}, "user database", GAP, "$USER", "getent"),
    ({}, {"user": "", "answered_in": 3.1}, "user database", GAP, "waits 3 seconds", "SSSD"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "seen", "what", "state", "cost", "remedy"), CASES, ids=lambda value: str(value)[:40])
def test_gaps(host: dict[str, Any], seen: dict[str, Any], what: str, state: str, cost: str, remedy: str) -> None:
    changed = PERFECT._replace(host=HOST._replace(**host), **seen)
    found = of(changed)
    finding = found[what]
    assert finding.state == state and finding.said
    assert cost in finding.cost and remedy in finding.remedy and finding.remedy
    usable = not isinstance(plans(changed.host)["read-only"], RuntimeUnavailable) and not changed.node_problem
    assert usable == (FAILS not in {each.state for each in found.values()})
    for line in "\n".join(table(list(found.values()), {"writable": "x " * 99}, [("CDI devices:", "y, " * 99)])).split(
        "\n"
    ):
        assert len(line) <= 80, line


def test_what_is_not_needed_is_no_gap() -> None:
    """A node directory in memory where nothing is unpacked; no fuse-overlayfs where the kernel does it."""
    none = Program("")
    changed = PERFECT._replace(host=HOST._replace(squashfuse="", squash=False, fuse_overlayfs=""))
    changed = changed._replace(squashfuse=none, fuse_overlayfs=none, fuse2fs=none)
    found = of(changed._replace(node=Place("/run/x", "tmpfs", True, 10**9)))
    assert found["node directory"].state == OK
    assert {found[name].state for name in ("squashfuse", "fuse-overlayfs", "fuse2fs")} == {INFO}
    root = of(PERFECT._replace(host=HOST._replace(root=True, loop=True), subuids=None, subgids=None))
    assert root["ids of --fakeroot"].state == OK and root["squashfuse"].state == OK


def test_gpus() -> None:
    gpu = {**NO_DEVICES, "nodes": ["/dev/nvidia0", "/dev/nvidiactl"], "nv": "cdi"}
    assert of(PERFECT, gpu)["GPUs"] == Finding("GPUs", OK, "/dev/nvidia0, /dev/nvidiactl; --nv goes by cdi")
    assert of(PERFECT, {**gpu, "nv": ""})["GPUs"].state == GAP
    assert of(PERFECT, {**gpu, "unreadable": ["/etc/cdi/x.yaml: needs PyYAML"]})["GPUs"].state == GAP
    assert of(PERFECT, {**NO_DEVICES, "nv": "ldcache"})["GPUs"] == Finding("GPUs", INFO, "none; --nv goes by ldcache")


def test_selinux_and_apparmor_are_told() -> None:
    found = of(PERFECT._replace(selinux="unconfined_u:x", knobs=Knobs(selinux=True), apparmor="hpcc (unconfined)"))
    assert (
        found["SELinux"].said == "enforcing, unconfined_u:x" and found["AppArmor"].said == "profile hpcc (unconfined)"
    )
    restricted = PERFECT._replace(apparmor="hpcc", knobs=Knobs(apparmor_restricts=1))
    assert of(restricted)["AppArmor"].state == OK  # since ours may


# -- what is looked at -------------------------------------------------------------------------------------------------


def cgroup_tree(root: Path, rows: str, mounts: str, groups: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(rows)
    (root / "proc/self/mountinfo").write_text(mounts)
    for path, controllers in groups.items():
        group = root / "sys/fs/cgroup" / path
        group.mkdir(parents=True)
        (group / "cgroup.controllers").write_text(controllers)
        for name in ("cgroup.procs", "cgroup.subtree_control"):
            (group / name).touch()
    return root


V2 = "30 20 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
V1 = "30 20 0:26 / /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory\n"


def test_cgroups_v2(tmp_path: Path) -> None:
    root = str(cgroup_tree(tmp_path, "0::/job/7\n", V2, {"job/7": "cpu memory pids\n"}))
    assert cgroups(1000, root) == Cgroups("v2", "/job/7", ("cpu", "memory", "pids"))
    (tmp_path / "sys/fs/cgroup/job/7/cgroup.subtree_control").unlink()  # not to be written to
    assert cgroups(1000, root) == Cgroups("v2", "/job/7")


def test_cgroups_by_systemd(tmp_path: Path) -> None:
    service = "user.slice/user-1000.slice/user@1000.service"
    root = str(
        cgroup_tree(tmp_path, "0::/user.slice/user-1000.slice/session-3.scope\n", V2, {service: "memory pids\n"})
    )
    assert cgroups(1000, root) == Cgroups("v2", "/user.slice/user-1000.slice/session-3.scope", ("memory", "pids"), True)
    assert not cgroups(1001, root).delegated


def test_cgroups_v1_and_none(tmp_path: Path) -> None:
    one, other, none = tmp_path / "one", tmp_path / "other", tmp_path / "none"
    assert cgroups(1, str(cgroup_tree(one, "4:memory:/x\n", V1, {}))) == Cgroups("v1")
    assert cgroups(1, str(cgroup_tree(other, "4:memory:/x\n0::/\n", V1 + V2, {}))).kind == "hybrid"
    assert cgroups(1, str(cgroup_tree(none, "", "", {}))) == Cgroups("") and cgroups(1, "/no/such") == Cgroups("")


def test_versions() -> None:
    assert version_in(b"squashfuse 0.1.105 (c) 2012 Dave Vasilevsky\n\nUsage: squashfuse_ll", "squashfuse") == "0.1.105"
    assert (
        version_in(b"fusermount3 version: 3\nfuse-overlayfs: version 1.14\nFUSE library version 3", "version") == "1.14"
    )
    assert version_in(b"squashfuse: cannot", "squashfuse") == "" and version_in(b"\xff", "squashfuse") == ""


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("docker.io=https://me:secret@mirror.example:5000", "docker.io=https://***@mirror.example:5000"),
        ("docker.io=me:secret@mirror.example", "docker.io=***@mirror.example"),
        ("http://a:b@c, http://d:e@f", "http://***@c, http://***@f"),
        ("/opt/x:/opt/y, user@host, quay.io/x:1", "/opt/x:/opt/y, user@host, quay.io/x:1"),
    ],
)
def test_logins_are_taken_out(text: str, clean: str) -> None:
    assert without_logins(text) == clean


def test_apparmor_profile(tmp_path: Path) -> None:
    interpreter = tmp_path / "python3"
    interpreter.touch()
    (tmp_path / "link").symlink_to(interpreter)
    text = apparmor_profile(str(tmp_path / "link"))
    assert f'profile hpcc "{interpreter}" flags=(unconfined) {{\n  userns,\n' in text and "abi <abi/4.0>," in text
    assert "every Python program" not in text and "every Python program" in apparmor_profile("/usr/bin/env")
