"""make bench: hpcc against Apptainer and against floors, on this machine, in one run; ratios are what counts.

    run.py [--json PATH] [--quick]      --quick leaves the large image out: two minutes instead of five

Everything runs as an unprivileged user, the programs alternate, and a figure is the median of its rounds. Targets
are printed beside the ratios and never asserted: a busy machine is no failure. Needs root, for Apptainer's root.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import cluster, dask_workers, engines, ranks, starts
from tests.bench.asking import LAYOUT_TARGET, Sent, count_requests, show_requests, time_layouts
from tests.support import installation, peers, people
from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person
from tests.support.sharedfs import SharedFs

TARGETS = {
    "pull debian, cold: seconds": "apptainer / hpcc at least 11",
    "pull debian, cold: peak MB": "hpcc below 300",
    "SIF of debian: MB": "hpcc / apptainer at most 1.15",
    "SIF of debian, gzip:9: MB": "hpcc / apptainer at most 1.02",
    "pull scipy, cold: seconds": "apptainer / hpcc at least 13, never below 10",
    "pull scipy, cold: peak MB": "hpcc below 300",
    "SIF of scipy: MB": "hpcc / apptainer at most 1.15",
    "SIF of scipy, gzip:9: MB": "hpcc / apptainer at most 1.02",
    "pull scipy:2 after it: seconds": "apptainer / hpcc at least 60",
    "exec debian.sif true: ms": "hpcc / apptainer at most 0.2, below ch-run",
    "exec --compat: ms": "hpcc / apptainer at most 0.2",
    "exec, first start: ms": "hpcc / apptainer at most 0.5",
    "import numpy, cold: ms": "printed",
    "build with apt-get install: seconds": "hpcc / apptainer at most 1",
}
ROUNDS = 3  # of pulls
_SQUASH = ("-noappend", "-quiet", "-no-progress", "-no-xattrs", "-comp")


class Cost(NamedTuple):
    wall: float
    cpu: float
    rss: int
    status: int


class Row(NamedTuple):
    what: str
    hpcc: float
    apptainer: float


class Bench:
    """Where it happens: a directory that all users can pass through, a registry, a user, an installation."""

    def __init__(self, top: Path, registry: DockerRegistry, user: Person) -> None:
        self.top, self.registry, self.user = top, registry, user
        self.hpcc = str(installation.install(("compress",)).hpcc)
        shutil.copy(Path(__file__).with_name("measure.py"), top / "measure.py")
        self.costs: dict[str, list[Cost]] = {}
        self.digests: dict[str, set[str]] = {}
        self.layouts: dict[str, list[float]] = {}
        self.requests: list[Sent] = []
        self.storm: cluster.Storm
        self.waiter: float | None = None
        self.overhead: engines.Overhead | None = None
        self.jobs: engines.Cluster | None = None
        self.dask: dask_workers.Workers | None = None
        self.ranks: tuple[list[ranks.Start], list[ranks.Ring], list[ranks.Reading]]

    def here(self, label: str, argv: Sequence[object], times: int = 1, **env: str) -> list[Cost]:
        words = [sys.executable if os.geteuid() else "/usr/bin/python3", self.top / "measure.py", times, *argv]
        return self._costs(label, self.user.argv([str(word) for word in words]), env)

    def in_sid(self, label: str, argv: Sequence[object], times: int = 1, **env: str) -> list[Cost]:
        words = ["python3", self.top / "measure.py", times, *argv]
        return self._costs(label, peers.peer_argv([str(word) for word in words], self.user), env)

    def _costs(self, label: str, argv: list[str], env: dict[str, str]) -> list[Cost]:
        environ = self.user.environ({"HPCC_INSECURE": self.registry.host, "HPCC_PEERS": str(peers.PEERS), **env})
        done = subprocess.run(
            argv, env=environ, cwd=self.user.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        found = [Cost(*each) for each in json.loads(done.stdout or "[]")]
        if done.returncode or not found or any(cost.status for cost in found):
            raise SystemExit(f"{label} failed:\n{done.stderr[-2000:]}")
        self.costs.setdefault(label, []).extend(found)
        return found

    def median(self, label: str, field: str = "wall") -> float:
        return statistics.median(getattr(cost, field) for cost in self.costs[label])


def pull(bench: Bench, name: str, tag: str, rounds: int, *, keep: bool = False) -> None:
    """Cold pulls of an image by both, each into an empty cache; with `keep` into the cache of the last image."""
    uri = f"docker://{bench.registry.host}/bench/{name}:{tag}"
    label = f"pull {name}:{tag}"
    for number in range(rounds):
        cache = bench.user.home / ("cache-kept" if keep else f"cache-{name}-{number}")
        ours, theirs = bench.user.home / f"{name}-{tag}.sif", bench.user.home / f"{name}-{tag}-apptainer.sif"
        os.sync()  # what was written before is not these pulls' affair
        bench.here(f"hpcc {label}", [bench.hpcc, "pull", "--force", ours, uri], HPCC_CACHE_DIR=str(cache))
        caches = {"APPTAINER_CACHEDIR": f"{cache}-apptainer", "SINGULARITY_CACHEDIR": f"{cache}-apptainer"}
        argv = ["apptainer", "--silent", "pull", "--no-https", "--force", theirs, uri]
        os.sync()
        bench.in_sid(f"apptainer {label}", argv, **caches)
        bench.digests.setdefault(label, set()).add(hashlib.sha256(ours.read_bytes()).hexdigest())
        if not keep:
            shutil.rmtree(cache)
            shutil.rmtree(f"{cache}-apptainer", ignore_errors=True)


def podman(bench: Bench, name: str, tag: str, rounds: int) -> None:
    """Cold pulls by podman, where somebody has installed it: it unpacks the layers, and makes no file of them."""
    for number in range(rounds):
        storage = bench.user.home / f"podman-{number}"
        places = ["--root", storage, "--runroot", bench.user.home / "run"]  # of at most 50 characters
        uri = f"docker://{bench.registry.host}/bench/{name}:{tag}"
        bench.here(f"floor: podman pull of {name}", ["podman", *places, "pull", "-q", "--tls-verify=false", uri])
        shutil.rmtree(storage)


_DEFINITION = """Bootstrap: docker
From: {host}/bench/debian:12
%files
    apt /etc
%post
    apt-get -q update
    apt-get install -q -y --no-install-recommends cowsay
"""
"""With this machine's own configuration of apt."""


def build(bench: Bench) -> None:
    """A definition file with apt-get install, by both, once."""
    home = bench.user.home
    shutil.copytree("/etc/apt", home / "apt", ignore=shutil.ignore_patterns("auth.conf*"))
    (home / "cowsay.def").write_text(_DEFINITION.format(host=bench.registry.host))
    argv = ["build", "--fakeroot", "--force", "--no-https"]
    bench.here("hpcc build", [bench.hpcc, *argv, "--no-cache", home / "cowsay.sif", home / "cowsay.def"])
    bench.in_sid("apptainer build", ["apptainer", "--silent", *argv, home / "cowsay2.sif", home / "cowsay.def"])


def smaller(bench: Bench, name: str, tag: str) -> None:
    """The same image as small as gzip can have it, from the blobs that are in the cache."""
    uri, target = f"docker://{bench.registry.host}/bench/{name}:{tag}", bench.user.home / f"{name}-{tag}-9.sif"
    argv = [bench.hpcc, "pull", "--force", "--compression", "gzip:9", target, uri]
    bench.here(f"hpcc pull {name}:{tag} gzip:9", argv, HPCC_CACHE_DIR=str(bench.user.home / "cache-kept"))


def floors(bench: Bench) -> dict[str, float]:
    """What nobody can be faster than, in seconds."""
    copy, tree, sif = bench.top / "layer.tar.gz", bench.top / "tree", bench.user.home / "debian-12.sif"
    shutil.copy(_layer_of_debian(), copy)
    argv = ["unsquashfs", "-q", "-n", "-o", str(_squashfs_offset(sif)), "-d", tree, sif]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["chmod", "-R", "a+rX", tree], check=True)  # for the unprivileged mksquashfs
    gzip, zstd = (["mksquashfs", tree, bench.user.home / f"{name}.sqfs", *_SQUASH, name] for name in ("gzip", "zstd"))
    for label, argv, times in (
        ("true", ["true"], 20),
        ("unshare -Ur true", ["unshare", "-Ur", "true"], 20),
        ("python3 -I -S -c pass", ["/usr/bin/python3", "-I", "-S", "-c", "pass"], 20),
        ("gzip -dc of debian's layer", ["gzip", "-dc", copy], 3),
        ("mksquashfs gzip -9 of debian", [*gzip, "-Xcompression-level", "9"], 1),
        ("mksquashfs zstd -3 of debian", [*zstd, "-Xcompression-level", "3"], 1),
    ):
        bench.here(f"floor: {label}", argv, times)
    if shutil.which("podman"):
        podman(bench, "debian", "12", 2)
    if shutil.which("ch-run"):
        starts.charliecloud(bench, bench.user.home / "gzip.sqfs")
    return {label: bench.median(label) for label in bench.costs if label.startswith("floor: ")}


def _layer_of_debian() -> Path:
    images = peers.PEERS / "images"
    for entry in json.loads((images / "index.json").read_text())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == "debian-bookworm":
            manifest = json.loads((images / "blobs" / entry["digest"].replace(":", "/")).read_text())
            return images / "blobs" / manifest["layers"][0]["digest"].replace(":", "/")
    raise LookupError("debian-bookworm")


def _squashfs_offset(sif: Path) -> int:
    from hpcc.sif.load import load

    data = sif.read_bytes()
    return load(lambda at, size: data[at : at + size], len(data)).primary().offset


def rows(bench: Bench, quick: bool) -> list[Row]:
    found = []

    def compare(what: str, label: str, field: str = "wall", unit: float = 1.0) -> None:
        found.append(Row(what, *(bench.median(f"{who} {label}", field) / unit for who in ("hpcc", "apptainer"))))

    def sizes(name: str) -> None:
        ours, smaller, theirs = (bench.user.home / f"{name}{end}.sif" for end in ("", "-9", "-apptainer"))
        for path, how in ((ours, ""), (smaller, ", gzip:9")):
            sizes = (each.stat().st_size / 1e6 for each in (path, theirs))
            found.append(Row(f"SIF of {name.partition('-')[0]}{how}: MB", *sizes))

    compare("pull debian, cold: seconds", "pull debian:12")
    compare("pull debian, cold: cpu s", "pull debian:12", "cpu")
    compare("pull debian, cold: peak MB", "pull debian:12", "rss", 1e6)
    sizes("debian-12")
    if not quick:
        compare("pull scipy, cold: seconds", "pull scipy:1")
        compare("pull scipy, cold: cpu s", "pull scipy:1", "cpu")
        compare("pull scipy, cold: peak MB", "pull scipy:1", "rss", 1e6)
        sizes("scipy-1")
        compare("pull scipy:2 after it: seconds", "pull scipy:2")
    compare("exec debian.sif true: ms", "exec", "wall", 1e-3)
    compare("exec debian.sif true: cpu ms", "exec", "cpu", 1e-3)
    compare("exec --compat: ms", "exec --compat", "wall", 1e-3)
    compare("build with apt-get install: seconds", "build")
    compare("exec, first start: ms", "exec first", "wall", 1e-3)
    compare("exec --compat, first start: ms", "exec --compat first", "wall", 1e-3)
    if not quick:
        compare("import numpy, cold: ms", "numpy cold", "wall", 1e-3)
    return found


def show(found: list[Row], lowest: dict[str, float], digests: dict[str, set[str]]) -> None:
    print(f"\n{'':<34}{'hpcc':>9}{'apptainer':>11}{'hpcc/appt.':>12}{'inverse':>9}   target")
    for row in found:
        ratio = row.hpcc / row.apptainer
        print(f"{row.what:<34}{row.hpcc:>9.2f}{row.apptainer:>11.2f}{ratio:>12.3f}{1 / ratio:>9.1f}   "
              f"{TARGETS.get(row.what, '')}")  # fmt: skip
    print("\nfloors, ms")
    for label, seconds in lowest.items():
        print(f"  {label.removeprefix('floor: '):<32}{seconds * 1000:>9.1f}")
    odd = [label for label, seen in digests.items() if len(seen) > 1]
    print("\nhpcc's files were the same in each round" if not odd else f"\nnot the same file in each round: {odd}")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="PATH", help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="without the large image")
    options = parser.parse_args(argv)
    if (reason := peers.missing()) or not (peers.PEERS / "images/index.json").exists():
        print(reason or "no images: run tests/support/peers/setup.sh images")
        return 1
    top = Path(tempfile.mkdtemp(prefix="hpcc-bench-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        found, lowest, bench = _measure(top, quick=options.quick)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    show(found, lowest, bench.digests)
    show_requests(bench.requests)
    cluster.show(bench.storm, bench.waiter)
    ours, its = (statistics.median(bench.layouts[who]) for who in ("hpcc", "skopeo"))
    image = "debian" if options.quick else "scipy"
    if not options.quick:
        held, unpacked = (bench.median(f"hpcc numpy {way}") / starts.IMPORTS for way in ("held", "unpacked"))
        print(f"\nimport numpy, warm: {held * 1e3:.0f} ms from a SIF, {unpacked * 1e3:.0f} ms from an unpacked copy")
        print(f"  ratio {held / unpacked:.2f}   target: at most 1.3")
    if bench.overhead and bench.jobs:
        engines.show(bench.overhead, bench.jobs)
    if bench.dask:
        dask_workers.show(bench.dask)
    ranks.show(*bench.ranks)
    print(f"\npull --format oci of {image}, cold: hpcc {ours:.2f} s, skopeo {its:.2f} s, ratio {ours / its:.2f}")
    print(f"  target: {LAYOUT_TARGET}")
    if options.json:
        values: dict[str, Any] = {
            "rows": [row._asdict() for row in found],
            "floors": lowest,
            "requests": [sent._asdict() for sent in bench.requests],
            "layouts": bench.layouts,
            "storm": {**bench.storm._asdict(), "ratio": bench.storm.ratio},
            "metadata operations of a waiter, a second": bench.waiter,
            "all": {label: [cost._asdict() for cost in costs] for label, costs in bench.costs.items()},
            "targets": TARGETS,
            "dask": bench.dask._asdict() if bench.dask else None,
            "ranks": ranks.as_json(*bench.ranks),
            "snakemake": [each._asdict() for each in (bench.overhead, bench.jobs) if each],
        }
        Path(options.json).write_text(json.dumps(values, indent=1) + "\n")
    return 0


def _measure(top: Path, *, quick: bool) -> tuple[list[Row], dict[str, float], Bench]:
    (top / "home").mkdir(mode=0o700)
    user = people.unprivileged(top / "home")
    if user is None:
        raise SystemExit("no unprivileged user: run tests/support/install.sh")
    (top / "registry").mkdir()
    with DockerRegistry(top / "registry") as registry:
        bench = Bench(top, registry, user.at(top / "home"))
        for image, name in (("debian-bookworm", "debian:12"), ("scipy-latest", "scipy:1"), ("scipy-v2", "scipy:2")):
            if not (quick and "scipy" in name):
                peers.push_image(image, registry, f"bench/{name}")
        say(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs; pulls of debian")
        pull(bench, "debian", "12", ROUNDS)
        smaller(bench, "debian", "12")
        say("runs")
        starts.executions(bench, "exec", [])
        starts.executions(bench, "exec --compat", ["--compat"])
        starts.executions(bench, "exec first", [], first=["--no-hold"])
        starts.executions(bench, "exec --compat first", ["--compat"], first=["--no-hold"])
        starts.unpacked_first(bench)
        say("builds")
        build(bench)
        say("layouts, and requests")
        layout_of = "bench/debian:12" if quick else "bench/scipy:1"
        bench.layouts = time_layouts(bench.user, bench.hpcc, registry, layout_of)
        bench.requests = count_requests(bench.user, bench.hpcc)
        say("one cache, two nodes")
        with SharedFs() as fs:
            nodes = cluster.Nodes(fs, bench.user, bench.hpcc, registry, "bench/debian:12")
            bench.storm = cluster.storm(nodes, registry)
        bench.waiter = cluster.waiter_operations(bench.user, bench.hpcc, top)
        say("floors")
        lowest = floors(bench)
        if not quick:
            say("pulls of scipy, and of its second version")
            pull(bench, "scipy", "1", 1, keep=True)
            pull(bench, "scipy", "2", 1, keep=True)
            smaller(bench, "scipy", "1")
            starts.numpy(bench)
            say("workflows")
            bench.overhead, bench.jobs = engines.overhead(bench), engines.cluster(bench)
            bench.dask = dask_workers.workers(bench)
        say("ranks")
        bench.ranks = ranks.measure(top, bench.user, None if quick else bench.user.home / "scipy-1.sif")
        return rows(bench, quick), lowest, bench


def say(text: str) -> None:
    print(f"… {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
