"""hpcc doctor --slurm: what a cluster's configuration means for containers, and what a job finds on a node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping

from hpcc.cli.checks import FAILS, GAP, INFO, OK, Finding
from hpcc.errors import HpccError, UsageError
from hpcc.invoke import program
from hpcc.settings import Settings
from hpcc_slurm.executor import ALLOCATION
from hpcc_slurm.images import no_slurm
from hpcc_slurm.node_facts import Facts, node_facts
from hpcc_slurm.oci_conf import parse_version

_SHORT_WAIT = 10  # seconds from TERM to KILL in which no checkpoint is written
_PATIENCE = 180.0  # seconds that a job of one task may take to start and to end


def check(place: str) -> list[Finding]:
    """All findings: of the controller, and of a job in the partition `place`, or of this one. HpccError."""
    config = parse_config(_output(["scontrol", "show", "config"]))
    facts = None
    if place:
        facts = _facts_on(place)
    elif os.environ.get("SLURM_JOB_ID"):
        facts = node_facts(Settings.from_environ())
    return [*of_config(config), *(of_job(facts, config) if facts else [_not_tried()])]


def _not_tried() -> Finding:
    return Finding("inside a job", INFO, "not tried; `hpcc doctor --slurm --on PARTITION` does, by a job of one task")


def parse_config(text: str) -> dict[str, str]:
    """{name in lower case: value} of `scontrol show config`; "" for (null). Pure."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {
        name.strip().lower(): "" if value.strip() in ("(null)", "N/A") else value.strip() for name, _, value in pairs
    }


def of_config(config: Mapping[str, str]) -> Iterator[Finding]:
    """What the controller says of itself. Pure."""
    yield _version(config.get("slurm_version", ""))
    yield _tracking(config.get("proctracktype", "").rpartition("/")[2])
    yield _tasks(config.get("taskplugin", ""), config)
    yield _flags(config.get("prologflags", ""))
    yield _private_tmp(config)
    yield _mpi(config.get("mpidefault", ""))
    yield _requeue(config.get("requeueexit", ""), config.get("jobrequeue", "1"))
    yield _wait(config.get("killwait", "30"))
    yield _limits(config)
    yield _gres(config.get("grestypes", ""))


def _version(text: str) -> Finding:
    try:
        version = parse_version(text)
    except UsageError:
        return Finding("Slurm", INFO, text or "a version that it does not say")
    if version < (23, 2):
        return Finding(
            "Slurm", INFO, f"{text}; its own --container takes bundles alone (hpcc slurm bundle)"
        )  # fmt: skip
    return Finding("Slurm", OK, text)


def _tracking(kind: str) -> Finding:
    what = "process tracking"
    if kind == "cgroup":
        return Finding(what, OK, "by cgroup: whatever a job starts ends with it")
    lost = {
        "pgid": "What makes a process group of its own, as each shell with job control does, outlives scancel.",
        "linuxproc": "What loses its parent, as daemons do, outlives scancel and the time limit.",
    }
    return Finding(
        what, GAP, kind or "unknown",
        lost.get(kind, "Whether processes outlive their job is not known."),
        "ProctrackType=proctrack/cgroup, then restart slurmd on each node. Until then: hpcc's own processes end with "
        "what they serve; daemons of a payload are ended by --pid.",
    )  # fmt: skip


def _tasks(plugins: str, config: Mapping[str, str]) -> Finding:
    if "cgroup" in plugins:
        devices = config.get("constraindevices", "yes").lower() in ("yes", "true", "")
        if devices:
            return Finding("tasks", OK, plugins)
        return Finding(
            "tasks", GAP, f"{plugins}, without ConstrainDevices", "A container sees all of the node's GPUs.",
            "ConstrainDevices=yes in cgroup.conf.",
        )  # fmt: skip
    return Finding(
        "tasks", GAP, plugins or "none",
        "A job can use more cores and memory, and other GPUs, than it was given; so can its containers.",
        "TaskPlugin=task/affinity,task/cgroup; in cgroup.conf ConstrainCores, ConstrainRAMSpace, ConstrainDevices=yes.",
    )  # fmt: skip


def _flags(flags: str) -> Finding:
    if "contain" in flags.lower():
        return Finding("PrologFlags", OK, flags)
    return Finding(
        "PrologFlags", INFO, f"{flags or 'none'}; Contain is what private /tmp and ssh to a job's nodes need"
    )  # fmt: skip


def _private_tmp(config: Mapping[str, str]) -> Finding:
    kind = config.get("jobcontainertype", "") or config.get("namespacetype", "")
    if "tmpfs" in kind or ("namespace" in kind and "none" not in kind):
        return Finding("private /tmp", OK, f"{kind}: each job has its own, and its containers have that")
    return Finding(
        "private /tmp", INFO, f"{kind or 'none'}: /tmp is all users', in containers too but with --contain; what a job "
        "leaves stays"
    )  # fmt: skip


def _mpi(default: str) -> Finding:
    if default and default != "none":
        return Finding("MpiDefault", OK, default)
    return Finding(
        "MpiDefault", GAP, "none",
        "`srun hpcc exec …` without --mpi starts each rank as a program alone: MPI_COMM_WORLD has size 1.",
        "MpiDefault=pmix, or pmi2 for MPICH; `srun --mpi=list` shows what this Slurm has. Users: srun --mpi=pmix.",
    )  # fmt: skip


def _requeue(codes: str, allowed: str) -> Finding:
    if "75" in codes.replace("-", ",").split(","):
        return Finding("RequeueExit", OK, f"{codes}: a job is tried again where hpcc could not reach a registry")
    said = codes or "none"
    if allowed in ("0", "no"):
        return Finding("RequeueExit", INFO, f"{said}; JobRequeue=0: no job is requeued unless it says so")
    return Finding("RequeueExit", INFO, f"{said}; with 75, jobs are tried again where hpcc says that this may help")


def _wait(text: str) -> Finding:
    seconds = int(text.split()[0]) if text.split() and text.split()[0].isdigit() else 30
    if seconds >= _SHORT_WAIT:
        return Finding("KillWait", OK, f"{seconds} s from TERM to KILL")
    return Finding(
        "KillWait", GAP, f"{seconds} s from TERM to KILL",
        "At scancel and the time limit a payload has no time to write what it needs to go on later.",
        "KillWait=30. Jobs: sbatch --signal=B:USR1@120, which hpcc hands on to the payload.",
    )  # fmt: skip


def propagates(config: Mapping[str, str], limit: str) -> bool:
    """Whether a limit of the submit host becomes the job's. Pure."""
    some = config.get("propagateresourcelimits", "").upper().split(",")
    others = config.get("propagateresourcelimitsexcept", "").upper().split(",")
    if limit in others or "ALL" in others or "NONE" in some:
        return False
    return some in ([""], ["ALL"]) or limit in some


def _limits(config: Mapping[str, str]) -> Finding:
    what = "limits of a job"
    if not propagates(config, "MEMLOCK"):
        return Finding(what, OK, "MEMLOCK is the node's")
    return Finding(
        what, GAP, "MEMLOCK comes from the submit host",
        "Where that has a low one, MPI over InfiniBand, Slingshot or Omni-Path cannot register memory in jobs.",
        "PropagateResourceLimitsExcept=MEMLOCK, and LimitMEMLOCK=infinity for slurmd (systemctl edit slurmd).",
    )  # fmt: skip


def _gres(types: str) -> Finding:
    if "gpu" in types.split(","):
        return Finding("GPUs", OK, f"GresTypes={types}")
    return Finding("GPUs", INFO, f"no gpu among GresTypes ({types or 'none'}): jobs are given none")


# -- what a job finds --------------------------------------------------------------------------------------------


def of_job(facts: Facts, config: Mapping[str, str]) -> Iterator[Finding]:
    """What a job's process finds on its node. Pure."""
    node = facts.node
    if facts.mounts:
        yield Finding("in a job: namespaces", OK, f"{node}: containers run{'' if facts.fuse else ', without FUSE'}")
    else:
        yield Finding(
            "in a job: namespaces", FAILS,
            f"{node}: {'mounts in them are denied' if facts.user_namespaces else 'no user namespaces'}",
            "No container runs in jobs there.",
            f"`srun -w {node} hpcc doctor` says why. user.max_user_namespaces, and no SystemCallFilter for slurmd.",
        )  # fmt: skip
    yield _memlock(facts)
    yield _tmpdir(facts)
    yield _node_dir(facts)
    yield _gpus(facts)
    if facts.selinux:
        yield Finding("in a job: SELinux", INFO, facts.selinux)
    yield Finding(
        "in a job: cgroup", INFO, f"{facts.cgroup or 'none'}{', writable' if facts.writable_cgroup else ''}"
    )  # fmt: skip


def _memlock(facts: Facts) -> Finding:
    if facts.memlock < 0 or facts.memlock >= 1 << 30:
        return Finding("in a job: MEMLOCK", OK, "any" if facts.memlock < 0 else f"{facts.memlock >> 20} MiB")
    return Finding(
        "in a job: MEMLOCK", GAP, f"{facts.memlock >> 10} KiB", "MPI over a fabric cannot register its buffers.",
        "LimitMEMLOCK=infinity for slurmd, and PropagateResourceLimitsExcept=MEMLOCK.",
    )  # fmt: skip


def _tmpdir(facts: Facts) -> Finding:
    what = "in a job: TMPDIR"
    if facts.own_tmp:
        return Finding(what, OK, f"{facts.tmpdir or '/tmp'}; /tmp is the job's own")
    if facts.tmpdir and os.path.normpath(facts.tmpdir) not in ("/tmp", "/var/tmp"):
        return Finding(what, OK, f"{facts.tmpdir}; --job-env brings it into contained runs")
    return Finding(what, INFO, f"{facts.tmpdir or 'not set'}: temporary files are in the node's /tmp")


def _node_dir(facts: Facts) -> Finding:
    what, said = "in a job: node dir", f"{facts.node_dir}: {facts.node_dir_type or 'unknown'}"
    inside = (facts.own_tmp and f"{facts.node_dir}/".startswith("/tmp/")) or (
        facts.own_var_tmp and f"{facts.node_dir}/".startswith("/var/tmp/")
    )
    if inside:
        return Finding(
            what, GAP, f"{said}, in a directory of the job's own",
            "Copies of images and held mounts go with the job: the next one makes them anew.",
            "node_dir in /etc/hpcc/config.toml, or by a TaskProlog (hpcc slurm task-prolog --node-dir /local/hpcc-%U).",
        )  # fmt: skip
    return Finding(what, OK, said)


def _gpus(facts: Facts) -> Finding:
    what, visible = "in a job: GPUs", facts.visible_gpus
    given = "is not set" if visible is None else visible or "is empty"
    said = f"{facts.gpu_nodes} device files, CUDA_VISIBLE_DEVICES {given}"
    if facts.gpu_nodes and not visible:
        return Finding(
            what, GAP, said, "A job that was given none sees all of the node's GPUs.",
            "ConstrainDevices=yes in cgroup.conf.",
        )  # fmt: skip
    return Finding(what, OK if facts.gpu_nodes else INFO, said)


# -- asking ------------------------------------------------------------------------------------------------------


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            env={name: value for name, value in os.environ.items() if name not in ALLOCATION},
        )  # fmt: skip
    except FileNotFoundError:
        raise no_slurm(argv[0]) from None
    except subprocess.TimeoutExpired:
        raise HpccError(
            f"{argv[0]} has not answered for {_PATIENCE:.0f} s", hint="`scontrol ping`, `squeue`."
        ) from None
    if done.returncode:
        said = done.stderr.strip().replace("\n", "; ")
        raise HpccError(f"{argv[0]}: {said}", hint="Is this a host of the cluster? `scontrol ping` says.")
    return done.stdout


def _facts_on(partition: str) -> Facts:
    argv = ["srun", f"--partition={partition}", "--nodes=1", "--ntasks=1", "--time=2", "--immediate=60", "--quiet"]
    out = _output([*argv, "--job-name=hpcc-doctor", "--input=none", *program(), "slurm", "node-facts"])
    try:
        return Facts(**json.loads(out.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        raise HpccError(f"the job in {partition} did not say what it found: {out[-200:]!r}") from None
