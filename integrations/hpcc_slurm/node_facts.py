"""hpcc slurm node-facts: what a job finds on a node; `hpcc doctor --slurm --on PARTITION` has one print it."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from typing import NamedTuple

from hpcc.cache.filesystem import filesystem_of
from hpcc.cli.arguments import Command, parse, usage_error
from hpcc.runtime.host import find_programs, probe
from hpcc.settings import Settings

COMMAND = Command(
    "slurm node-facts",
    "Print, as JSON, what a job finds on this node; `hpcc doctor --slurm --on PARTITION` calls it there.",
    (),
    "srun hpcc slurm node-facts",
)


class Facts(NamedTuple):
    """memlock: bytes, -1: any. tmpdir: $TMPDIR, "" for none. own_*: the directory is the job's own mount."""

    node: str
    user_namespaces: bool
    mounts: bool
    fuse: bool
    memlock: int
    tmpdir: str
    own_tmp: bool
    own_var_tmp: bool
    node_dir: str
    node_dir_type: str
    selinux: str
    cgroup: str
    visible_gpus: str | None
    gpu_nodes: int
    writable_cgroup: bool


def main(argv: list[str]) -> int:
    if parse(COMMAND, argv).positional:
        raise usage_error(COMMAND, "node-facts takes nothing")
    print(json.dumps(node_facts(Settings.from_environ())._asdict()), flush=True)
    return 0


def node_facts(settings: Settings) -> Facts:
    """Of this process: what is tried is tried in children."""
    with tempfile.TemporaryDirectory(prefix="hpcc-doctor-") as place:
        host = probe(*find_programs(settings), place)
    points = _mount_points()
    cgroup = _line("/proc/self/cgroup", "0::") or _line("/proc/self/cgroup", "")
    names = os.listdir("/dev")
    return Facts(
        node=os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        user_namespaces=host.user_namespaces,
        mounts=host.mounts,
        fuse=host.fuse,
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        tmpdir=os.environ.get("TMPDIR", ""),
        own_tmp="/tmp" in points,
        own_var_tmp="/var/tmp" in points,
        node_dir=settings.node_dir,
        node_dir_type=filesystem_of(settings.node_dir),
        selinux=_read("/proc/self/attr/current").strip("\0\n ") if os.path.exists("/sys/fs/selinux/enforce") else "",
        cgroup=cgroup,
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpu_nodes=sum(name.startswith("nvidia") and name[6:].isdigit() for name in names),
        writable_cgroup=os.access(f"/sys/fs/cgroup{cgroup.removeprefix('0::')}/cgroup.procs", os.W_OK),
    )


def _mount_points() -> set[str]:
    """Where a part of a filesystem is bound, as job_container/tmpfs binds a directory of the job's on /tmp."""
    found = set()
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[3] != "/":
            found.add(fields[4])
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _line(path: str, start: str) -> str:
    return next((line for line in _read(path).splitlines() if line.startswith(start)), "")
