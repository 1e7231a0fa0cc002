"""Ranks of a step on one node: one mount, one server, one user namespace; under --compat also one PID namespace."""

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_run_signals import left_over
from tests.support.images import IMAGE_PATH, Images, build_sif, images, marked
from tests.support.installation import Installation
from tests.support.mpi import ring_layers
from tests.support.people import Person
from tests.support.real import need
from tests.support.slurm import SlurmCluster

pytestmark = pytest.mark.root  # who else sees the processes in another's namespace
RANKS = 4
SCRIPT = """
for k in user pid ipc mnt; do readlink /proc/self/ns/$k; done
echo $$; echo in; read line; kill -0 $line && echo ok
"""


class Step:
    """Ranks that run at once, and can be told from all other processes."""

    def __init__(self, person: Person, installed: Installation, image: Images, number: int) -> None:
        self.person, self.installed, self.image, self.mark = person, installed, image.main, uuid.uuid4().hex
        self.env = {"HPCC_MARK": self.mark, "HPCC_HOLD_IDLE": "1", "HPCC_ROOTFS": "fuse", "SLURM_JOB_ID": "17",
                    "SLURM_STEP_ID": str(number), "SLURM_STEP_TASKS_PER_NODE": str(RANKS)}  # fmt: skip

    def rank(self, *flags: str, **env: str) -> "subprocess.Popen[str]":
        argv = [str(self.installed.hpcc), "exec", *flags, str(self.image), "sh", "-c", SCRIPT]
        return self.person.popen(argv, env={**self.env, **env}, stdin=-1, stdout=-1, text=True)

    def ranks(self, *flags: str, **env: str) -> "tuple[list[subprocess.Popen[str]], list[list[str]]]":
        """The processes, and for each what it said of its namespaces, and its pid."""
        running = [self.rank(*flags, **env) for _ in range(RANKS)]
        said = []
        for process in running:
            assert process.stdout is not None
            said.append([process.stdout.readline().strip() for _ in range(6)])
            assert said[-1][5] == "in", said
        return running, said

    def servers(self) -> int:
        return sum(command.startswith("hpcc-squashfs") for command in marked(self.mark).values())


@pytest.fixture
def step(runs_as: Person, installed: Installation) -> Iterator[Step]:
    yield Step(runs_as, installed, images(), os.getpid() % 100000)


@pytest.mark.parametrize("flags", [(), ("--compat",), ("--containall",), ("--contain", "--pid")], ids=str)
def test_ranks_share(step: Step, flags: tuple[str, ...]) -> None:
    running, said = step.ranks(*flags)
    users, pids, ipcs, mounts, numbers = (set(column) for column in list(zip(*said, strict=True))[:5])
    assert len(users) == 1 and step.servers() == 1 and len(mounts) == RANKS
    assert (users == {os.readlink("/proc/self/ns/user")}) == (step.person.uid == 0)
    own_pid = bool(flags)
    assert len(pids) == 1 and (pids == {os.readlink("/proc/self/ns/pid")}) == (not own_pid)
    assert len(ipcs) == 1 and len(numbers) == RANKS, "one would not find the other"
    if own_pid:
        assert all(int(number) < 1000 for number in numbers) and "1" not in numbers
    order = [each[4] for each in said]
    for process, other in zip(running, order[1:] + order[:1], strict=True):
        process.communicate(f"{other}\n", timeout=30)
        assert process.returncode in (0, 1)  # the first to end is not there for the last
    assert left_over(step.mark, 12.0) == {}


def test_ranks_in_a_directory_share(step: Step) -> None:
    step.image = images().sandbox
    running, said = step.ranks("--compat")
    users, pids, ipcs = (set(column) for column in list(zip(*said, strict=True))[:3])
    assert (len(users), len(pids), len(ipcs)) == (1, 1, 1) and os.readlink("/proc/self/ns/pid") not in pids
    for process in running:
        process.communicate("1\n", timeout=30)
    assert left_over(step.mark, 12.0) == {}


def test_root_that_keeps_privileges_shares_nothing(step: Step) -> None:
    """It could look at the host through process 1. In a user namespace that is the caller's own affair."""
    running, said = step.ranks("--compat", "--keep-privs")
    assert len({each[1] for each in said}) == (RANKS if step.person.uid == 0 else 1)
    for process in running:
        process.communicate("1\n", timeout=30)
    assert left_over(step.mark, 12.0) == {}


def test_it_lasts_until_the_last_rank_ends(step: Step) -> None:
    """Beyond the idle time; and with it goes what a rank has left behind."""
    running, said = step.ranks("--compat")
    for process in running[1:]:
        process.communicate("1\n", timeout=30)
    time.sleep(7)  # idle is one second, and it looks each five
    assert step.servers() == 1
    late = step.rank("--compat")
    assert late.stdout is not None
    assert [late.stdout.readline().strip() for _ in range(2)] == said[0][:2]
    late.communicate("1\n", timeout=30)
    running[0].communicate("1\n", timeout=30)
    assert left_over(step.mark, 12.0) == {}


def test_a_killed_rank_takes_no_other_along(step: Step) -> None:
    running, said = step.ranks("--compat")
    running[0].send_signal(signal.SIGKILL)
    running[0].wait(20)
    out, _ = running[1].communicate(f"{said[2][4]}\n", timeout=30)
    assert running[1].returncode == 0 and "ok" in out
    for process in running[2:]:
        process.communicate("1\n", timeout=30)
    assert left_over(step.mark, 12.0) == {}


def test_term_reaches_the_payload(step: Step) -> None:
    running, _ = step.ranks("--compat")
    for process in running:
        process.send_signal(signal.SIGTERM)
    assert {process.wait(20) for process in running} <= {143, -15}
    assert left_over(step.mark, 12.0) == {}


@pytest.mark.parametrize(
    ("flags", "env"),
    [(("--compat", "--share", "never"), {}), (("--compat",), {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"})],
    ids=["never", "alone"],
)
def test_not_shared(step: Step, flags: tuple[str, ...], env: dict[str, str]) -> None:
    running, said = step.ranks(*flags, **env)
    assert len({each[1] for each in said}) == RANKS and {each[4] for each in said} == {"1"}
    for process in running:
        process.communicate("1\n", timeout=30)
    assert left_over(step.mark, 12.0) == {}


def test_wrong_words(step: Step) -> None:
    process = step.rank("--share", "sometimes")
    process.communicate("1\n", timeout=30)
    assert process.returncode == 255


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with an MPI program, which sends long messages from the one's memory into the other's (UCX's CMA)."""
    directory = tmp_path_factory.mktemp("ring")
    return build_sif(directory / "ring.sif", ring_layers(directory), {"Env": [f"PATH={IMAGE_PATH}"]})


@pytest.mark.parametrize("flags", [(), ("--compat", "--job-env"), ("--contain", "--job-env")], ids=str)
def test_one_reads_the_others_memory(
    slurm: SlurmCluster, runs_as: Person, installed: Installation, ring: Path, open_dir: Path, flags: tuple[str, ...]
) -> None:
    image = open_dir / "ring.sif"
    image.write_bytes(ring.read_bytes())
    trace = [need("strace"), "-f", "-ff", "-e", "trace=process_vm_readv", "-o", str(runs_as.home / "trace")]
    argv = ["srun", "--mpi=pmi2", "-N1", "-n2", *trace, installed.hpcc, "exec", *flags, image, "ring", "9", "1000000"]
    done = slurm.run(argv, runs_as, env={"HPCC_HOLD_IDLE": "1"}, timeout=60)  # strace waits for the holder, too
    assert done.returncode == 0 and "the token is 9 after 9 rounds" in done.stdout, done.stderr
    said = "".join(path.read_text() for path in runs_as.home.glob("trace.*"))
    assert re.search(r"process_vm_readv\(\d+, .* = [1-9]\d{4,}\n", said), said or "it was not called"
    assert " = -1 " not in said, said
