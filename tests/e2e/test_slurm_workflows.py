"""The examples of workflows/slurm, on a real Slurm of three nodes."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_slurm import Hpcc, hpcc, registry, user  # noqa: F401
from tests.support.daemons import wait_until
from tests.support.mpi import ring_image

pytestmark = pytest.mark.root

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows/slurm"


@pytest.fixture(scope="module")
def ring(_open_base: Path) -> Iterator[Path]:
    """The image; the program for the host lies beside it."""
    directory = _open_base / "ring"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    yield ring_image(directory)
    shutil.rmtree(directory)


def taken(hpcc: Hpcc, path: str) -> Path:  # noqa: F811
    """A copy of a file of the examples in the person's home."""
    return hpcc.script((WORKFLOWS / path).read_text(), Path(path).name)


def test_array(user: Hpcc) -> None:  # noqa: F811
    job = user.submit("--image", user.image, taken(user, "array/squares.sh"), "100")
    assert user.slurm.wait_job(job).code == 0
    assert user.read("squares-3.txt").splitlines()[-1] == f"139 {139 * 139} (hpcc-demo)"
    assert user.registry.counts["manifest_get"] <= 2


def test_mpi(hpcc: Hpcc, ring: Path) -> None:  # noqa: F811
    job = hpcc.slurm.submit([taken(hpcc, "mpi/ring.sh"), ring, "5"], hpcc.person, env=hpcc.env)
    assert hpcc.slurm.wait_job(job, 60).code == 0, hpcc.read(f"ring-{job}.txt")
    said = sorted(hpcc.read(f"ring-{job}.txt").splitlines())
    assert said[:4] == [f"hello from rank {rank} of 4" for rank in range(4)]
    assert said[4].startswith("the token is 30 after 5 rounds")
    done = hpcc("srun", "--image", ring, "--mpi", "pmi2", "-N", "1", "-n", "2", "ring", "3")
    assert done.returncode == 0 and "the token is 3 after 3 rounds" in done.stdout, done.stderr


def test_checkpoint(user: Hpcc) -> None:  # noqa: F811
    """A requeue in the middle; Slurm would wait for two minutes with the second start."""
    job = user.submit("--image", user.image, taken(user, "checkpoint/count.sh"), "30")
    output = user.person.home / f"count-{job}.txt"
    assert wait_until(lambda: output.exists() and "start 0 from 0" in output.read_text(), 20)
    time.sleep(0.5)
    user.slurm.run(["scontrol", "requeue", job], user.person)
    assert wait_until(lambda: user.slurm.jobs(job)[0].state == "PENDING", 20)
    user.slurm.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
    assert user.slurm.wait_job(job).code == 0
    said = output.read_text()
    (number,) = re.findall(r"^saved (\d+)$", said, re.M)
    assert f"start 1 from {number}\n" in said and said.endswith("counted to 30\n") and int(number) > 0
    assert user.slurm.jobs(job)[0].fields["Restarts"] == "1"


def test_gpu(user: Hpcc) -> None:  # noqa: F811
    """On nodes without GPUs, though a variable tells of one."""
    job = user.submit("--image", user.image, taken(user, "gpu/gpus.sh"), env={"CUDA_VISIBLE_DEVICES": "0"})
    assert user.slurm.wait_job(job).code == 0
    assert user.read(f"gpus-{job}.txt") == "no GPU was given to this job\n"
