"""hpcc slurm prestage on a real Slurm, whose virtual nodes get node directories by TaskProlog; Prolog and Epilog."""

import json
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_pull import Puller, hpcc, registry  # noqa: F401
from tests.support.daemons import wait_until
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.slurm import SlurmCluster

pytestmark = pytest.mark.root


@pytest.fixture
def configured(slurm: SlurmCluster) -> Iterator[Callable[..., None]]:
    """`configured(Prolog=path, …)` adds lines to slurm.conf for this test."""
    config = slurm.directory / "slurm.conf"
    before = config.read_text()

    def write(text: str) -> None:
        config.write_text(text)
        assert slurm.run(["scontrol", "reconfigure"]).returncode == 0
        assert wait_until(slurm._all_idle, 20), slurm.logs()

    yield lambda **lines: write(before + "".join(f"{name}={value}\n" for name, value in lines.items()))
    slurm.cancel_all()
    write(before)


@pytest.fixture
def cluster(slurm: SlurmCluster, configured: Callable[..., None], open_dir: Path) -> SlurmCluster:
    prolog = open_dir / "task-prolog"
    prolog.write_text('#!/bin/sh\necho "export HPCC_NODE_DIR=$HOME/node-$SLURMD_NODENAME"\n')
    prolog.chmod(0o755)
    configured(TaskProlog=prolog)
    return slurm


def prestage(cluster: SlurmCluster, hpcc: Puller, *argv: object, status: int = 0) -> dict[str, dict[str, object]]:  # noqa: F811
    words = [hpcc.installed.hpcc, "slurm", "prestage", "--json", *map(str, argv)]
    done = cluster.run(words, hpcc.person, env=hpcc.env)
    assert done.returncode == status, done.stderr + cluster.logs()
    return {each["node"]: each for each in json.loads(done.stdout)}


def staged(hpcc: Puller, node: str) -> list[Path]:  # noqa: F811
    directory = hpcc.person.home / f"node-{node}/staged-v1"
    return [path for path in directory.glob("*") if path.suffix not in (".lock", ".making")]


def test_each_node_has_a_copy_that_jobs_run_from(cluster: SlurmCluster, hpcc: Puller) -> None:  # noqa: F811
    said = prestage(cluster, hpcc, "--nodes", "n[1-2]", hpcc.uri)
    assert {node: each["state"] for node, each in said.items()} == {"n1": "copied", "n2": "copied"}, said
    (sif,) = (hpcc.cache / "sif-v1").iterdir()
    for node in ("n1", "n2"):
        (copy,) = staged(hpcc, node)
        assert copy.read_bytes() == sif.read_bytes() and copy.stat().st_uid == hpcc.person.uid
    asked = len(hpcc.registry.requests)
    argv = ["srun", "-w", "n1", hpcc.installed.hpcc, "exec", "--dry-run", "--stage", "node", hpcc.uri, "true"]
    assert f"Image {staged(hpcc, 'n1')[0]}" in cluster.run(argv, hpcc.person, env=hpcc.env).stdout
    said = prestage(cluster, hpcc, "--partition", "debug", hpcc.uri)
    assert {node: each["state"] for node, each in said.items()} == {"n1": "there", "n2": "there", "n3": "copied"}
    assert len(hpcc.registry.requests) == asked


def test_by_sbcast(cluster: SlurmCluster, hpcc: Puller) -> None:  # noqa: F811
    """One node at a time: these virtual ones have one /var/tmp between them, to which sbcast writes."""
    for node in ("n1", "n2", "n1"):
        said = prestage(cluster, hpcc, "--broadcast", "--nodes", node, hpcc.uri)
        assert said[node]["state"] == (
            "there" if len(staged(hpcc, "n1")) and staged(hpcc, "n2") and node == "n1" else "copied"
        )
        (copy,) = staged(hpcc, node)
        assert copy.read_bytes() == next((hpcc.cache / "sif-v1").iterdir()).read_bytes()
        assert not list(Path("/var/tmp").glob("hpcc-prestage-*"))


def test_a_node_that_is_busy_or_down(cluster: SlurmCluster, hpcc: Puller) -> None:  # noqa: F811
    """keeps no other one waiting, and is named."""
    cluster.submit(["-w", "n1", "--exclusive", "--wrap", "sleep 300"], hpcc.person)
    cluster.run(["scontrol", "update", "node=n2", "state=drain", "reason=test"])
    try:
        done = cluster.run(
            [hpcc.installed.hpcc, "slurm", "prestage", "--nodes", "n[1-3]", "--wait", "2", hpcc.uri],
            hpcc.person,
            env=hpcc.env,
        )
        assert done.returncode == 1, done.stderr
        lines = dict(
            line.removeprefix("INFO:").strip().split(": ", 1) for line in done.stderr.splitlines() if " n" in line
        )
        assert lines["n2"] == "failed: it is drain" and lines["n3"].startswith("copied"), done.stderr
        assert lines["n1"].startswith("failed: ") and "error" in lines["n1"], done.stderr
    finally:
        cluster.run(["scontrol", "update", "node=n2", "state=resume"])


def test_mistakes(cluster: SlurmCluster, hpcc: Puller) -> None:  # noqa: F811
    for argv, words in (
        (["--nodes", "n9", hpcc.uri], "n9"),
        ([hpcc.uri], "--partition"),
        (["--nodes", "n1", "--parallel", "0", hpcc.uri], "--parallel"),
        (["--nodes", "n1", f"docker://{hpcc.registry.host}/no/such"], "no/such"),
    ):
        done = cluster.run([hpcc.installed.hpcc, "slurm", "prestage", *argv], hpcc.person, env=hpcc.env)
        assert done.returncode == 255 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_prolog_and_epilog(
    slurm: SlurmCluster, configured: Callable[..., None], installed: Installation, open_dir: Path
) -> None:
    """The directory is there when a job starts, stays while its user has another job, and goes then."""
    account = pwd.getpwnam("games")  # who, unlike the tests' user, has no other process on this machine
    (open_dir / "home").mkdir()
    person = Person(account.pw_name, account.pw_uid, account.pw_gid, open_dir / "home").at(open_dir / "home")
    place = open_dir / "nodes"
    place.mkdir()
    place.chmod(0o1777)
    mine = place / f"hpcc-{person.uid}"
    lines = {}
    for key, name, argv in (
        ("Prolog", "prolog", []),
        ("Epilog", "epilog", ["--unused", "0"]),
        ("TaskProlog", "task-prolog", []),
    ):
        done = person.run([installed.hpcc, "slurm", name, "--node-dir", f"{place}/hpcc-%U", *argv])
        assert done.returncode == 0, done.stderr
        lines[key] = open_dir / name
        lines[key].write_text(done.stdout)
        lines[key].chmod(0o755)
    configured(**lines)
    other = slurm.submit(["-w", "n1", "--wrap", "exec sleep 300"], person)
    said = []
    for _ in range(2):
        argv = ["-w", "n1", "--wrap", f"echo $HPCC_NODE_DIR; stat -c '%a %u' {mine}; touch {mine}/something"]
        job = slurm.wait_job(slurm.submit(argv, person))
        said.append((person.home / f"slurm-{job.id}.out").read_text().splitlines())
        assert wait_until(lambda job=job: "CG" not in slurm.run(["squeue", "-h", "-o", "%t"]).stdout, 20)
        assert (mine / "something").exists()
    assert said == [[str(mine), f"700 {person.uid}"]] * 2
    slurm.run(["scancel", other])
    assert wait_until(lambda: not mine.exists(), 30), slurm.logs()
    assert wait_until(slurm._all_idle, 20), slurm.run(["sinfo", "-N", "-l"]).stdout  # no node was drained
