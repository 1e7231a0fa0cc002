"""One cache on a distributed filesystem, two nodes, many processes; and filesystems whose locks do nothing.

Counts are what is asserted; where locks do not work, work may be done twice, which is printed.
"""

import hashlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.e2e.test_pull import CONFIG, LAYERS, NAME
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import StallingStorage
from tests.support.sharedfs import Node, SharedFs

SOAK = os.environ.get("HPCC_SOAK", "") not in ("", "0")
PROCESSES = 500 if SOAK else 64
pytestmark = pytest.mark.root


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100_000) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield registry


class Cluster:
    """hpcc as one user on two nodes, with one cache; the mounts' paths differ, the files do not."""

    def __init__(
        self,
        nodes: Sequence[Node],
        views: Sequence[Path],
        person: Person,
        installed: Installation,
        registry: FakeRegistry,
    ) -> None:
        self.installed, self.registry, self.person = installed, registry, person
        self.uri = f"docker://{registry.host}/{NAME}:1.4"
        name = f"cache-{time.time_ns()}"
        os.mkdir(views[0] / name)
        os.chown(views[0] / name, person.uid, person.gid)
        self.caches = [view / name for view in views]
        self.people = [node.person(person) for node in nodes]

    def env(self, node: int, **more: str) -> dict[str, str]:
        return {"HPCC_INSECURE": self.registry.host, "HPCC_CACHE_DIR": str(self.caches[node]), **more}

    def start(self, node: int, *argv: str, **more: str) -> "subprocess.Popen[str]":
        words = [str(self.installed.hpcc), *argv]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.people[node].popen(words, env=self.env(node, **more), text=True, **pipes)

    def run(self, node: int, *argv: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return self.people[node].run([str(self.installed.hpcc), *argv], env=self.env(node, **more))

    def check(self) -> None:
        """Both nodes see whole objects with right names, and nothing half-written."""
        for cache in self.caches:
            for path in (cache / "oci/blobs/sha256").iterdir():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            assert list((cache / "tmp").iterdir()) == []
            assert len(list((cache / "sif-v1").iterdir())) == 1

    def blobs(self) -> list[str]:
        return [path for method, path in self.registry.requests if method == "GET" and "/blobs/" in path]


@pytest.fixture
def make(
    shared_fs: SharedFs, plain_user: Person, open_dir: Path, installed: Installation, registry: FakeRegistry
) -> Callable[..., Cluster]:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    person = plain_user.at(home)

    def cluster(*, local_locks: bool = False) -> Cluster:
        views = [node.local_locks if local_locks else node.mount for node in shared_fs.nodes]
        return Cluster(shared_fs.nodes, views, person, installed, registry)

    return cluster


def all_well(runs: Sequence["subprocess.Popen[str]"]) -> None:
    ended = [(run.communicate(timeout=600), run.returncode) for run in runs]
    assert [err for (out, err), status in ended if (status, out) != (0, "hello from the image\n")] == []


@pytest.mark.parametrize("lock", ["auto", "flock"])
def test_many_on_two_nodes_cold(make, lock: str) -> None:
    """One conversion, at most two counted requests, each blob once; then warm: no request."""
    cluster = make()
    argv = ("exec", cluster.uri, "cat", "/etc/greeting")
    all_well([cluster.start(number % 2, *argv, HPCC_LOCK=lock) for number in range(PROCESSES)])
    assert cluster.registry.counts["manifest_get"] <= 2 and cluster.registry.counts["manifest_head"] == 1
    assert len(cluster.blobs()) == len(set(cluster.blobs())) == len(LAYERS) + 1
    cluster.check()
    asked = len(cluster.registry.requests)
    all_well([cluster.start(number % 2, *argv) for number in range(8)])
    assert len(cluster.registry.requests) == asked


def test_locks_that_the_other_node_does_not_see(make, capsys: pytest.CaptureFixture[str]) -> None:
    """As Lustre's localflock and NFS' local_lock. Forced to believe in flock: the same results, perhaps twice the
    work; by itself, hpcc uses leases there, and works once.
    """
    for lock, most in (("flock", 2), ("auto", 1)):
        cluster = make(local_locks=True)
        cluster.registry.requests.clear()
        argv = ("exec", cluster.uri, "cat", "/etc/greeting")
        all_well([cluster.start(number % 2, *argv, HPCC_LOCK=lock) for number in range(16)])
        cluster.check()
        times = len(cluster.blobs()) / (len(LAYERS) + 1)
        assert times <= most
        with capsys.disabled():
            print(f" [local locks, HPCC_LOCK={lock}: each blob {times:.1f} times]", end="")


@pytest.mark.parametrize("kind", ["flock-noop", "flock-enosys"])
@pytest.mark.parametrize("lock", ["auto", "flock"])
def test_locks_that_do_nothing(
    plain_user: Person, open_dir: Path, installed: Installation, registry: FakeRegistry, shim: Callable[[str], Path],
    kind: str, lock: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """All believe to be alone, or nobody gets a lock: the same results, perhaps with more work."""
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    person = plain_user.at(home)
    uri = f"docker://{registry.host}/{NAME}:1.4"
    env = {"HPCC_INSECURE": registry.host, "HPCC_LOCK": lock, "LD_PRELOAD": str(shim(kind))}
    argv = [str(installed.hpcc), "pull", "--force", "--name", "x.sif", uri]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [person.popen(argv, env=env, text=True, **pipes) for _ in range(8)]
    ended = [(run.communicate(timeout=300), run.returncode) for run in runs]
    assert [err for (_, err), status in ended if status] == []
    (sif,) = (home / "cache/sif-v1").iterdir()
    assert sif.read_bytes() == (home / "x.sif").read_bytes()
    for path in (home / "cache/oci/blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    blobs = [path for method, path in registry.requests if method == "GET" and "/blobs/" in path]
    with capsys.disabled():
        print(f" [{kind}, HPCC_LOCK={lock}: each blob {len(blobs) / 3:.1f} times]", end="")
    if (kind, lock) == ("flock-enosys", "auto"):  # leases take over where there are no locks
        assert len(blobs) == 3


def test_doctor_tells_what_two_nodes_see(make, shared_fs: SharedFs) -> None:
    for local_locks in (False, True):
        cluster = make(local_locks=local_locks)
        # The other node has the files elsewhere, so what --with appends is not what it does.
        answer = f"exec {cluster.installed.hpcc} doctor --cache --answer {cluster.caches[1]}"
        other = shlex.join(shared_fs.nodes[1].argv(["sh", "-c", answer]))
        words = [str(cluster.installed.hpcc), "doctor", "--cache", "--with", other]
        done = shared_fs.nodes[0].person(Person("root", 0, 0, cluster.person.home)).run(words, env=cluster.env(0))
        assert done.returncode == 0, done.stderr
        assert f"{'no ' if local_locks else 'yes'} locks between nodes" in done.stdout, done.stdout
        assert (cluster.caches[0] / "locks/coherent").exists() is not local_locks


def test_who_dies_on_the_other_node(make) -> None:
    """Its lease runs out; what it had fetched is used again."""
    cluster = make()
    with StallingStorage(cluster.registry.blobs) as storage:
        cluster.registry.faults = Faults(redirect=storage.url)
        lease = {"HPCC_LOCK": "lease", "HPCC_LEASE": "3", "HPCC_HEARTBEAT": "0.5"}
        first = cluster.start(0, "exec", cluster.uri, "true", **lease)
        assert storage.stalled.wait(60)
        time.sleep(1)
        second = cluster.start(1, "exec", cluster.uri, "cat", "/etc/greeting", **lease)
        time.sleep(1.5)
        assert second.poll() is None
        storage.go.set()
        cluster.registry.faults = Faults()
        os.killpg(first.pid, signal.SIGKILL) if os.getpgid(first.pid) == first.pid else first.kill()
        first.communicate(timeout=60)
        begun = time.monotonic()
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (0, "hello from the image\n"), err
        assert time.monotonic() - begun < 30
        assert "node1" in err  # whom it waited for
    cluster.run(1, "cache", "gc")


def test_gc_beside_jobs(make) -> None:
    cluster = make()
    argv = ("exec", cluster.uri, "cat", "/etc/greeting")
    assert cluster.run(0, *argv).returncode == 0
    runs = []
    for number in range(24):
        runs.append(cluster.start(number % 2, *argv))
        if number % 6 == 0:
            done = cluster.run(1 - number % 2, "cache", "gc", "--grace", "0", "--max-size", "1MB")
            assert done.returncode == 0, done.stderr
    all_well(runs)
