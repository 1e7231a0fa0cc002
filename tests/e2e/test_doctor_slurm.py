"""hpcc doctor --slurm on a real Slurm."""

import json

import pytest

from tests.e2e.test_run import Hpcc, hpcc  # noqa: F401
from tests.support.slurm import SlurmCluster


@pytest.mark.root
def test_a_cluster(slurm: SlurmCluster, hpcc: Hpcc) -> None:  # noqa: F811
    argv = [hpcc.installed.hpcc, "doctor", "--slurm"]
    done = slurm.run(argv, hpcc.person)
    assert done.returncode == 0, done.stderr
    assert "linuxproc" in done.stdout and "costs:" in done.stdout and "not tried" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = slurm.run([*argv, "--on", "debug", "--json"], hpcc.person)
    found = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert found["process tracking"]["state"] == found["KillWait"]["state"] == "gap"
    assert found["limits of a job"]["state"] == "ok"
    assert found["in a job: namespaces"]["state"] == "ok" and found["in a job: namespaces"]["said"].startswith("n1: ")
    assert str(hpcc.person.home / "node") in found["in a job: node dir"]["said"]
    inside = slurm.run(["srun", *argv], hpcc.person)
    assert inside.returncode == 0 and "in a job: MEMLOCK" in inside.stdout, inside.stderr


@pytest.mark.root
def test_a_partition_that_is_none(slurm: SlurmCluster, hpcc: Hpcc) -> None:  # noqa: F811
    done = slurm.run([hpcc.installed.hpcc, "doctor", "--slurm", "--on", "nosuch"], hpcc.person)
    assert done.returncode == 255 and "nosuch" not in done.stdout and "partition" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_without_slurm(hpcc: Hpcc) -> None:  # noqa: F811
    done = hpcc("doctor", "--slurm", env={"PATH": str(hpcc.installed.bin)})
    assert done.returncode == 255 and "scontrol is not on PATH" in done.stderr, done.stderr
    failing = hpcc.person.home / "scontrol"
    failing.write_text("#!/bin/sh\necho 'scontrol: error: no controller' >&2\nexit 1\n")
    failing.chmod(0o755)
    done = hpcc("doctor", "--slurm", env={"PATH": f"{hpcc.person.home}:/usr/bin:/bin"})
    assert done.returncode == 255 and "no controller" in done.stderr and "Traceback" not in done.stderr, done.stderr
