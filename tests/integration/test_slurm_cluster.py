"""What the cluster of tests.support.slurm does; other tests build on it. Nothing here is about hpcc."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.real import need
from tests.support.slurm import NODES, SlurmCluster

pytestmark = pytest.mark.root


def test_a_step_runs_on_three_nodes(slurm: SlurmCluster, runs_as: Person) -> None:
    script = "echo $SLURMD_NODENAME $(hostname) $(id -un)"
    done = slurm.run(["srun", "-N3", "sh", "-c", script], runs_as)
    assert done.returncode == 0, done.stderr + slurm.logs()
    assert sorted(done.stdout.splitlines()) == [f"{node} {socket.gethostname()} {runs_as.name}" for node in NODES]
    assert slurm.run(["srun", "-N3", "sh", "-c", "exit ${SLURMD_NODENAME#n}"], runs_as).returncode == 3


def test_a_batch_job_gives_its_code(slurm: SlurmCluster, runs_as: Person) -> None:
    done = slurm.run(
        ["sbatch", "--wait", "--parsable", "--wrap", "echo $HOME $EXTRA; exit 7"], runs_as, env={"EXTRA": "x"}
    )
    assert done.returncode == 7, done.stderr + slurm.logs()
    job = slurm.wait_job(done.stdout.strip())
    assert (job.state, job.code, job.signal, job.fields["NumNodes"]) == ("FAILED", 7, 0, "1")
    output = runs_as.home / f"slurm-{job.id}.out"
    assert output.read_text() == f"{runs_as.home} x\n"
    assert output.stat().st_uid == runs_as.uid


def test_an_array(slurm: SlurmCluster, runs_as: Person) -> None:
    job_id = slurm.submit(["--array=0-3", "--wrap", "exit $SLURM_ARRAY_TASK_ID"], runs_as)
    assert slurm.wait_job(job_id)[1:3] == ("FAILED", 3)
    jobs = {job.id: job.code for job in slurm.jobs(job_id)}
    assert jobs == {f"{job_id}_{task}": task for task in range(4)}
    assert slurm.wait_job(f"{job_id}_0").state == "COMPLETED"


def test_a_job_that_hangs_is_cancelled(slurm: SlurmCluster, plain_user: Person) -> None:
    job_id = slurm.submit(["--wrap", "trap '' TERM; sleep 600 & sleep 600; wait"], plain_user)
    with pytest.raises(TimeoutError, match=f"job {job_id} has not ended"):
        slurm.wait_job(job_id, timeout=2)
    slurm.cancel_all()
    assert slurm.wait_job(job_id).state == "CANCELLED"


def test_ranks_over_pmi(slurm: SlurmCluster) -> None:
    need("srun")
    for kind, name in (("pmi2", "PMI_RANK"), ("pmix", "PMIX_RANK")):  # pmix takes libpmix.so, which libpmix-dev brings
        done = slurm.run(["srun", f"--mpi={kind}", "-N1", "-n2", "printenv", name])
        assert sorted(done.stdout.split()) == ["0", "1"], done.stderr + slurm.logs()


_START = """
import sys
from tests.support.daemons import wait_until
from tests.support.slurm import SlurmCluster
with SlurmCluster() as slurm:
    job = slurm.submit(["--wrap", sys.argv[1]])
    assert wait_until(lambda: slurm.jobs(job)[0].state == "RUNNING", 30)
    print(slurm.directory, flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_session_left_is_removed() -> None:
    """A job that does not want to end, too; and an orderly session leaves nothing. Two clusters can run at once."""
    need("slurmctld")
    root = Path(__file__).resolve().parents[2]

    def start(job: str) -> "tuple[subprocess.Popen[str], str]":
        argv = [sys.executable, "-c", _START, job]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    killed, left = start("trap '' TERM; sleep 600; sleep 600")
    killed.kill()
    killed.communicate(timeout=60)
    assert os.path.isdir(left) and mentioned(left)
    after, mine = start("sleep 600")
    assert not os.path.exists(left) and not mentioned(left)
    after.communicate(timeout=60)
    assert after.returncode == 0
    assert not os.path.exists(mine) and not mentioned(mine)


def mentioned(directory: str) -> list[bytes]:
    """The command lines of processes that have the directory in them or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, environ = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if directory.encode() in line + environ:
            found.append(line)
    return found
