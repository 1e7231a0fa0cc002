"""Snakemake with containers: what each job pays for one, and a hundred jobs on three nodes of a real Slurm.

Apptainer lives in a Debian root of its own that only root can enter; so Snakemake is root's where it calls that, and
for each of its commands the time of `enter.sh` alone is taken off.
"""

import os
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpcc.registry.fake import FakeRegistry
from tests.support import installation, peers
from tests.support.people import SYSTEM_PATH, Person
from tests.support.slurm import SlurmCluster
from tests.support.workflow import add

JOBS = 200
CLUSTER_JOBS = 100
QUOTA = 2  # manifest GETs
TARGET = "hpcc / apptainer at most 0.3"
_ENTER = Path(peers.__file__).parent / "peers" / "enter.sh"

LOCAL = """
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule one:
    output: "out/{{n}}"
    container: {image!r}
    shell: "true > {{output}}"
"""
CLUSTER = """
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule one:
    output: "out/{{n}}"
    resources: mem_mb=100, runtime=5
    container: {image!r}
    shell: "cat /version > {{output}} || true"
"""


class Overhead(NamedTuple):
    """Seconds that a container costs each job."""

    hpcc: float
    apptainer: float


class Cluster(NamedTuple):
    """Seconds of CLUSTER_JOBS jobs; and what hpcc's sent."""

    hpcc: float
    without: float
    apptainer: float
    requests: dict[str, int]


class _Engine:
    """Snakemake as root, whose `apptainer` acts for the bench's user: every command of a job is the user's."""

    def __init__(self, bench: Any) -> None:
        self.installed = installation.install(("snakemake",), "engines")
        self.user: Person = bench.user
        self.bin = bench.top / "engines"
        self.bin.mkdir(exist_ok=True)
        self.calls = bench.user.home / "calls"

    def stand_in(self, name: str, argv: Sequence[object]) -> Path:
        """A directory with an `apptainer` that notes each call, then executes `argv` and its arguments."""
        directory = self.bin / name
        directory.mkdir()
        words = " ".join(shlex.quote(str(word)) for word in argv)
        program = directory / "apptainer"
        program.write_text(f'#!/bin/sh\necho >>{self.calls}\nexport HOME={self.user.home}\nexec {words} "$@"\n')
        program.chmod(0o755)
        return directory

    def time(self, name: str, snakefile: str, argv: Sequence[str], path: Path | None) -> tuple[float, int]:
        """(seconds of a run, calls of apptainer)."""
        work = self.user.home / f"work-{name}"
        (work / "out").mkdir(parents=True)
        (work / "Snakefile").write_text(snakefile)
        subprocess.run(["chown", "-R", f"{self.user.uid}:{self.user.gid}", work], check=True)
        self.calls.write_text("")
        self.calls.chmod(0o666)
        env = {**os.environ, "HOME": str(self.bin), "HPCC_PEERS": str(peers.PEERS), "PATH": SYSTEM_PATH}
        env["PATH"] = ":".join(str(each) for each in (path, self.installed.bin, SYSTEM_PATH) if each)
        begun = time.perf_counter()
        done = subprocess.run(
            [self.installed.bin / "snakemake", "--quiet", "--nolock", *argv],
            env=env, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"Snakemake with {name} failed:\n{done.stderr[-3000:]}")
        return seconds, len(self.calls.read_text().splitlines())


def overhead(bench: Any) -> Overhead:
    """Of JOBS jobs on this machine, by the shim and by Apptainer, each over the same jobs without containers."""
    engine = _Engine(bench)
    ids = f"{bench.user.uid}:{bench.user.gid}"
    subprocess.run(bench.user.argv([bench.hpcc, "shim", "enable", "--dir", bench.user.home / "shim"]),
                   env=bench.user.environ(None), check=True, capture_output=True)  # fmt: skip
    as_user = bench.user.argv([])
    ways = {
        "hpcc": (engine.stand_in("hpcc", [*as_user, bench.user.home / "shim/apptainer"]), as_user),
        "apptainer": (engine.stand_in("apptainer", [_ENTER, "-u", ids, "apptainer"]), [str(_ENTER), "-u", ids]),
    }
    snakefile = LOCAL.format(jobs=JOBS, image=str(bench.user.home / "debian-12.sif"))
    common = ["--cores", str(os.cpu_count() or 1)]
    plain, _ = engine.time("without", snakefile, common, None)
    found = []
    for name, (path, prefix) in ways.items():
        entering = _median([*prefix, "/bin/true"], bench.user)
        seconds, calls = engine.time(name, snakefile, [*common, "--sdm", "apptainer"], path)
        found.append((seconds - plain - calls * entering / (os.cpu_count() or 1)) / JOBS)
    return Overhead(*found)


def _median(argv: Sequence[object], user: Person) -> float:
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        env = {**os.environ, "HPCC_PEERS": str(peers.PEERS)}
        subprocess.run([str(word) for word in argv], env=env, cwd=user.home, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def cluster(bench: Any) -> Cluster:
    """CLUSTER_JOBS jobs, by cluster-generic: with a cold cache of hpcc's, without containers, and with Apptainer."""
    engine = _Engine(bench)
    ids = f"{bench.user.uid}:{bench.user.gid}"
    submit = "sbatch --parsable --mem={resources.mem_mb} --output=/dev/null"
    argv = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", submit, "--jobs", "24", "--latency-wait",
            "20", "--seconds-between-status-checks", "1"]  # fmt: skip
    as_user = bench.user.argv([])
    hpcc = engine.stand_in("cluster-hpcc", [*as_user, bench.user.home / "shim/apptainer"])
    theirs = engine.stand_in("cluster-apptainer", [_ENTER, "-u", ids, "apptainer"])
    seconds = {}
    with SlurmCluster() as slurm, FakeRegistry(quota=QUOTA) as ours, FakeRegistry() as other:
        os.environ.update(slurm.env | {"HPCC_INSECURE": ours.host, "APPTAINER_NOHTTPS": "1"})
        for name, registry, path, more in (
            ("cluster-hpcc", ours, hpcc, ["--sdm", "apptainer"]),
            ("cluster-without", ours, None, []),
            ("cluster-apptainer", other, theirs, ["--sdm", "apptainer"]),
        ):
            if name != "cluster-without":
                add(registry, "a")
            prefix = bench.user.home / f"images-{name}"
            prefix.mkdir()
            os.chown(prefix, bench.user.uid, bench.user.gid)
            snakefile = CLUSTER.format(jobs=CLUSTER_JOBS, image=f"docker://{registry.host}/lab/a:1")
            prefixed = [*more, "--apptainer-prefix", str(prefix)] if more else more
            seconds[name], _ = engine.time(name, snakefile, [*argv, *prefixed], path)
        requests = dict(ours.counts)
    shutil.rmtree(engine.bin)
    return Cluster(*seconds.values(), requests)


def show(cost: Overhead, jobs: Cluster) -> None:
    ratio = cost.hpcc / cost.apptainer
    print(f"\nSnakemake, {JOBS} jobs here: a container costs each {cost.hpcc * 1e3:.0f} ms by hpcc, "
          f"{cost.apptainer * 1e3:.0f} ms by Apptainer")  # fmt: skip
    print(f"  ratio {ratio:.2f}   target: {TARGET}")
    print(f"Snakemake, {CLUSTER_JOBS} jobs on three Slurm nodes, cold: hpcc {jobs.hpcc:.0f} s, without containers "
          f"{jobs.without:.0f} s, Apptainer {jobs.apptainer:.0f} s")  # fmt: skip
    sent = ", ".join(f"{count} {name}" for name, count in sorted(jobs.requests.items()) if count)
    print(f"  with a quota of {QUOTA} manifest GETs; sent: {sent}")
