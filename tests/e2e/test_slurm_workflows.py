"""The examples of workflows/slurm, on a real Slurm of three nodes."""

import gzip
import hashlib
import re
import time
from pathlib import Path

import pytest

from hpcc.cli.demo_image import build_demo_layers
from tests.e2e.test_slurm import Hpcc, hpcc, registry, user  # noqa: F401
from tests.support.daemons import wait_until
from tests.support.docker_registry import DockerRegistry
from tests.support.mpi import CONFIG, ring_layers

pytestmark = pytest.mark.root

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows/slurm"


def taken(hpcc: Hpcc, path: str) -> Path:  # noqa: F811
    """A copy of a file of the examples in the person's home."""
    return hpcc.script((WORKFLOWS / path).read_text(), Path(path).name)


def test_array(user: Hpcc) -> None:  # noqa: F811
    job = user.submit("--image", user.image, taken(user, "array/squares.sh"), "100")
    assert user.slurm.wait_job(job).code == 0
    assert user.read("squares-3.txt").splitlines()[-1] == f"139 {139 * 139} (hpcc-demo)"
    assert user.registry.counts["manifest_get"] <= 2


def test_mpi(hpcc: Hpcc, docker_registry: DockerRegistry, open_dir: Path) -> None:  # noqa: F811
    """Its README, from a real registry; the host's own ranks beside it."""
    layers = ring_layers(open_dir)
    diff_ids = [f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}" for layer in layers]
    config = {**build_demo_layers().config, **CONFIG, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    docker_registry.push("lab/ring", "latest", layers, config)
    image = f"docker://{docker_registry.host}/lab/ring"
    env = {**hpcc.env, "HPCC_INSECURE": docker_registry.host}
    pulled = hpcc.person.run([hpcc.installed.hpcc, "pull", "ring.sif", image], env=env)
    assert pulled.returncode == 0, pulled.stderr
    job = hpcc.slurm.submit([taken(hpcc, "mpi/ring.sh"), "ring.sif", "5"], hpcc.person, env=env)
    assert hpcc.slurm.wait_job(job, 120).code == 0, hpcc.read(f"ring-{job}.txt")
    said = sorted(hpcc.read(f"ring-{job}.txt").splitlines())
    assert said[:4] == [f"hello from rank {rank} of 4" for rank in range(4)]
    assert said[4].startswith("the token is 30 after 5 rounds")
    argv = ["--mpi", "pmi2", "-N", "1", "-n", "2"]
    done = hpcc("srun", "--image", image, *argv, "ring", "3", env=env)
    assert done.returncode == 0 and "the token is 3 after 3 rounds" in done.stdout, done.stderr
    for _ in range(4):  # with an IPC namespace each, half of them would hang
        four = ["--compat", "--mpi", "pmi2", "-N", "1", "-n", "4", "ring", "20", "65536"]
        done = hpcc("srun", "--image", image, *four, env=env, timeout=30)
        assert done.returncode == 0 and "the token is 120 after 20 rounds" in done.stdout, done.stderr
    done = hpcc.slurm.run(["srun", *argv, open_dir / "ring", "3"], hpcc.person)
    assert done.returncode == 0 and "the token is 3 after 3 rounds" in done.stdout, done.stderr


def test_checkpoint(user: Hpcc) -> None:  # noqa: F811
    """A requeue in the middle; Slurm would wait for two minutes with the second start."""
    job = user.submit("--image", user.image, taken(user, "checkpoint/count.sh"), "30")
    output = user.person.home / f"count-{job}.txt"
    assert wait_until(lambda: output.exists() and "start 0 from 0" in output.read_text(), 20)
    time.sleep(0.5)
    user.slurm.run(["scontrol", "requeue", job], user.person)
    assert wait_until(lambda: user.slurm.jobs(job)[0].state == "PENDING", 20)
    time.sleep(2)  # within the same second the node would take it for the job that it has just ended
    user.slurm.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
    ended = user.slurm.wait_job(job)
    said = output.read_text()
    assert ended.code == 0, said
    (number,) = re.findall(r"^saved (\d+)$", said, re.M)
    assert f"start 1 from {number}\n" in said and said.endswith("counted to 30\n") and int(number) > 0
    assert user.slurm.jobs(job)[0].fields["Restarts"] == "1"


def test_gpu(user: Hpcc) -> None:  # noqa: F811
    """On nodes without GPUs, though a variable tells of one."""
    job = user.submit("--image", user.image, taken(user, "gpu/gpus.sh"), env={"CUDA_VISIBLE_DEVICES": "0"})
    assert user.slurm.wait_job(job).code == 0
    assert user.read(f"gpus-{job}.txt") == "no GPU was given to this job\n"
