"""A real Slurm of three nodes on this machine: Debian's slurmctld, slurmd and munge, without systemd and cgroups.

The nodes n1 to n3 are three slurmd with this machine's files, processes and network; a task knows its node by
SLURMD_NODENAME. Each has 8 CPUs and 7000 MB, whatever the machine has. Jobs start at once, and are killed three seconds
after TERM. Everything listens at ports that were free, with a munge key of its own, so that clusters do not meet.
"""

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import daemons, people
from tests.support.people import SYSTEM_PATH, Person
from tests.support.real import need

NODES = ("n1", "n2", "n3")
_UP = 20.0  # seconds until all nodes must be idle
_DONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_CONFIG = """\
ClusterName=hpcctest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/run/munge.sock
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
KillWait=3
InactiveLimit=0
Waittime=0
PropagateResourceLimitsExcept=MEMLOCK
JobRequeue=1
MailProg=/bin/true
DefMemPerCPU=100
PartitionName=debug Nodes=n[1-3] Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=7000 State=UNKNOWN\n"


def missing() -> str | None:
    """Why Slurm cannot be run here, programs aside; None where it can."""
    if os.geteuid() != 0:
        return "needs root"
    try:  # as Slurm asks; the answer is empty where no interface but lo has an address
        socket.getaddrinfo(None, 1, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_PASSIVE | socket.AI_ADDRCONFIG)
    except OSError:
        return "Slurm needs an address beside 127.0.0.1, on any interface"
    return None


class Job(NamedTuple):
    """What `scontrol show job` says of one job, or of one task of an array."""

    id: str  # 7, or 7_2 for a task of an array
    state: str  # COMPLETED, FAILED, CANCELLED, RUNNING, PENDING, ...
    code: int  # of the batch script
    signal: int  # that ended it, or 0
    fields: dict[str, str]  # all the rest: NodeList, Restarts, Reason, StdOut, ...


class SlurmCluster:
    """The running cluster; needs root, use it as a context manager. It is up in about a second."""

    directory: Path  # everyone can read it
    env: dict[str, str]  # what sbatch, srun, squeue and scancel need to find this cluster

    def __enter__(self) -> "SlurmCluster":
        programs = {name: need(name) for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch")}
        with ExitStack() as stack:
            self.directory = stack.enter_context(daemons.state_directory("hpcc-slurm-"))
            self.env = {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": SYSTEM_PATH}
            for name in ("run", "state", "spool", "log", "root"):
                (self.directory / name).mkdir(mode=0o755)
            stack.callback(self._end_steps)  # after the daemons that would start more
            munged = self._start_munge(stack, programs["munged"])
            for _ in range(3):  # somebody else may take a port between finding it and binding it
                with ExitStack() as daemons_of_slurm:
                    if self._start_slurm(daemons_of_slurm, programs, munged):
                        stack.push(daemons_of_slurm.pop_all())
                        self._stack = stack.pop_all()
                        return self
            raise RuntimeError(f"Slurm did not start:\n{self.logs()}")

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.cancel_all()

    # -- use -------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        person: Person | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        **options: Any,
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a command that speaks to the cluster, as `person` or as root; the rest as for `Person.run`.

        Jobs inherit its environment, as usual: all of a person's, and `env`.
        """
        person = person or self.root()
        return person.run(argv, env={**self.env, **(env or {})}, timeout=timeout, **options)

    def root(self) -> Person:
        """Root, with a home of the cluster's own."""
        return people.myself(self.directory / "root")

    def submit(self, argv: Sequence[str | os.PathLike[str]], person: Person | None = None, **options: Any) -> str:
        """`sbatch argv…`; the job's id. Output goes to slurm-ID.out in `cwd`, by default the person's home."""
        done = self.run(["sbatch", "--parsable", *argv], person, **options)
        if done.returncode != 0:
            raise RuntimeError(f"sbatch: {done.stderr}\n{self.logs()}")
        return done.stdout.strip().partition(";")[0]

    def jobs(self, job_id: str) -> list[Job]:
        """The job; of an array each task that has one of its own by now; none when Slurm has forgotten it (minutes)."""
        done = self.run(["scontrol", "--oneliner", "show", "job", job_id])
        return [_parse(line) for line in done.stdout.splitlines() if line.startswith("JobId=")]

    def wait_job(self, job_id: str, timeout: float = 60) -> Job:
        """Wait until the job has ended, or all tasks of an array; of an array, the one with the largest code."""
        deadline = time.monotonic() + timeout
        while not (jobs := self.jobs(job_id)) or not all(job.state in _DONE for job in jobs):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} has not ended: {jobs}\n{self.logs()}")
            time.sleep(0.1)
        return max(jobs, key=lambda job: (job.code, job.signal))

    def cancel_all(self) -> None:
        """Cancel all jobs and wait for their end, 15 seconds at most."""
        self.run(["scancel", "--partition=debug"], timeout=10)
        daemons.wait_until(lambda: not self.run(["squeue", "--noheader"], timeout=10).stdout.strip(), 15)

    def logs(self) -> str:
        """The ends of all logs, for messages."""
        return "\n".join(f"--- {path.name}\n{daemons.tail(path)}" for path in sorted(self.directory.glob("log/*")))

    # -- start and stop --------------------------------------------------------------------------------------

    def _start_munge(self, stack: ExitStack, program: str) -> "subprocess.Popen[bytes]":
        key = self.directory / "run/munge.key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(128))
        run = self.directory / "run"
        files = [f"--key-file={key}", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"]
        logs = [f"--log-file={self.directory}/log/munged.log", f"--seed-file={run}/munged.seed"]
        argv = [program, "--foreground", "--force", "--num-threads=2", *files, *logs]
        process = self._start(stack, "munged", argv)
        if not daemons.wait_until((run / "munge.sock").exists, _UP, [process]):
            raise RuntimeError(f"munged did not start:\n{self.logs()}")
        return process

    def _start_slurm(self, stack: ExitStack, programs: Mapping[str, str], munged: "subprocess.Popen[bytes]") -> bool:
        host = socket.gethostname().partition(".")[0]
        ports = list(_free_ports(1 + len(NODES)))
        text = _CONFIG.format(host=host, base=self.directory, ports=ports)
        nodes = [_NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports[1:], strict=True)]
        config = self.directory / "slurm.conf"
        config.write_text(text + "".join(nodes))
        running = [munged, self._start(stack, "slurmctld", [programs["slurmctld"], "-D", "-c", "-f", config])]
        for name in NODES:
            running.append(self._start(stack, f"slurmd.{name}", [programs["slurmd"], "-D", "-f", config, "-N", name]))
        return daemons.wait_until(self._all_idle, _UP, running)

    def _all_idle(self) -> bool:
        try:
            done = self.run(["sinfo", "--noheader", "--Node", "--format=%N %t"], timeout=10)
        except subprocess.TimeoutExpired:
            return False
        return done.stdout.split("\n") == [*(f"{name} idle" for name in NODES), ""]

    def _start(self, stack: ExitStack, name: str, argv: Sequence[str | os.PathLike[str]]) -> "subprocess.Popen[bytes]":
        process = daemons.start(argv, self.directory / "log" / f"{name}.out", env=self.env)
        stack.callback(daemons.stop, [process])
        return process

    def _end_steps(self) -> None:
        """slurmstepd, whose parents are gone, and what they leave: all have SLURM_CONF in their environment."""
        daemons.end_processes(self.directory)


def _free_ports(count: int) -> Iterator[int]:
    with ExitStack() as stack:
        for _ in range(count):
            probe = stack.enter_context(closing(socket.socket()))
            probe.bind(("", 0))  # on all addresses, as Slurm does
            yield probe.getsockname()[1]


def _parse(line: str) -> Job:
    fields = dict(re.findall(r"(\S+?)=(\S*)", line))
    job_id = fields["JobId"]
    if fields.get("ArrayTaskId", "").isdecimal():
        job_id = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
    code, _, number = fields["ExitCode"].partition(":")
    return Job(job_id, fields["JobState"], int(code), int(number or 0), fields)
