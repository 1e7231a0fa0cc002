"""`srun --container` of a real Slurm, 22.05, by bundles; and how a newer one would call the runner."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.daemons import wait_until
from tests.support.images import Images, marked
from tests.support.slurm import SlurmCluster

pytestmark = pytest.mark.root


@pytest.fixture
def cluster(slurm: SlurmCluster, hpcc: Hpcc, image: Images) -> Iterator[SlurmCluster]:  # noqa: F811
    """With the oci.conf that hpcc prints for it, and a bundle in each person's home."""
    done = hpcc("slurm", "oci-conf")
    assert done.returncode == 0, done.stderr
    path = slurm.directory / "oci.conf"
    path.write_text(done.stdout)
    assert "--bundle" in done.stdout
    done = hpcc("slurm", "bundle", image.main, "bundle")
    assert done.returncode == 0, done.stderr
    yield slurm
    path.unlink()


def bundle(hpcc: Hpcc) -> Path:  # noqa: F811
    return hpcc.person.home / "bundle"


def test_a_step(cluster: SlurmCluster, hpcc: Hpcc) -> None:  # noqa: F811
    script = 'head -n 1 /etc/os-release; pwd; echo "$1|$2|$MINE|$GREETING|$SLURM_JOB_NODELIST"; exit 7'
    argv = ["srun", "--container", bundle(hpcc), "sh", "-c", script, "sh", "a  b", 'it\'s "$HOME"']
    done = cluster.run(argv, hpcc.person, env={"MINE": "x 'y'"})
    lines = done.stdout.splitlines()
    assert done.returncode == 7, done.stderr
    assert lines[0].startswith("ID=hpcc-demo") and lines[1] == str(hpcc.person.home)
    assert lines[2].split("|")[:3] == ["a  b", 'it\'s "$HOME"', "x 'y'"] and lines[2].endswith("|n1"), lines
    assert "hello world" in lines[2] and "JSON" not in done.stderr, done.stderr


def test_a_batch_job(cluster: SlurmCluster, hpcc: Hpcc) -> None:  # noqa: F811
    path = hpcc.person.home / "job.sh"
    path.write_text('#!/bin/sh\nhead -n 1 /etc/os-release\necho "$1"\nexit 3\n')
    job = cluster.wait_job(cluster.submit(["--container", bundle(hpcc), path, "a  b"], hpcc.person))
    assert job.code == 3 and job.state == "FAILED"
    assert (hpcc.person.home / f"slurm-{job.id}.out").read_text().splitlines()[1] == "a  b"


def test_signals_reach_the_payload_and_nothing_is_left(cluster: SlurmCluster, hpcc: Hpcc) -> None:  # noqa: F811
    """scancel: TERM is the payload's to trap; a payload that does not mind is killed."""
    trap = 'trap "echo trapped; exit 0" TERM; echo up; while :; do sleep 0.1; done'
    deaf = 'trap "" TERM; echo up; while :; do sleep 0.1; done'
    for script, expected in ((trap, "\ntrapped\n"), (deaf, "up\n")):
        out = hpcc.person.home / "out"
        out.unlink(missing_ok=True)
        mark = f"HPCC_TEST_MARK_{time.monotonic_ns()}"
        job = cluster.submit(
            ["--output", out, "--wrap", f"exec srun --container {bundle(hpcc)} sh -c '{script}'"],
            hpcc.person,
            env={mark: "1", "HPCC_HOLD_IDLE": "0"},
        )
        assert wait_until(lambda out=out: out.exists() and "up" in out.read_text(), 30), cluster.logs()
        assert cluster.run(["scancel", job], hpcc.person).returncode == 0
        assert cluster.wait_job(job).state == "CANCELLED"
        assert wait_until(lambda out=out, expected=expected: expected in out.read_text(), 10), out.read_text()
        assert wait_until(lambda mark=mark: not marked(mark), 15), marked(mark)


def test_as_a_newer_slurm_calls_it(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """RunTimeRun with its patterns filled in, in a directory of the spool, without the step's environment."""
    conf = hpcc("slurm", "oci-conf", "--slurm", "23.11.1", "--with", "--env=FROM=conf").stdout
    (line,) = [line for line in conf.splitlines() if line.startswith("RunTimeRun=")]
    spool = hpcc.person.home / "spool"
    spool.mkdir()
    (spool / "slurm_script").write_text('#!/bin/sh\necho "$FROM|$SLURM_PROCID|$MINE|$1"; pwd; exit 5\n')
    (spool / "slurm_script").chmod(0o755)
    (spool / "environment").write_bytes(
        f"SLURM_PROCID=3\0MINE=two\nlines\0PWD={hpcc.person.home}\0HOME={hpcc.person.home}\0"
        f"HPCC_NODE_DIR={hpcc.person.home}/node\0".encode()
    )
    command = line.partition("=")[2].strip('"').replace("%e", f"{spool}/environment").replace("%r", str(image.main))
    for script in (f"{spool}/slurm_script", "/bin/sh -c"):
        words = (
            f"'{script}' 'a  b'"
            if "slurm_script" in script
            else "'sh' '-c' 'echo \"$FROM|$SLURM_PROCID|$MINE|$1\"; pwd; exit 5' 'sh' 'a  b'"
        )
        done = hpcc.person.run(["/bin/sh", "-c", command.replace("%@", words)], cwd=spool)
        assert done.returncode == 5, done.stderr
        assert done.stdout == f"conf|3|two\nlines|a  b\n{hpcc.person.home}\n"


def test_mistakes(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    for argv in (
        ["oci-conf", "--slurm", "x"],
        ["oci-conf", "x"],
        ["oci-run"],
        ["oci-run", "--", "x.sif"],
        ["oci-run", "--bundle", "none"],
        ["bundle", image.main],
        ["bundle", image.main, hpcc.person.home],
    ):
        done = hpcc("slurm", *argv)
        assert done.returncode == 255 and "Traceback" not in done.stderr and "HINT" in done.stderr, (argv, done.stderr)
    for name in ("oci-conf", "oci-run", "bundle"):
        done = hpcc("slurm", name, "--help")
        assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80
