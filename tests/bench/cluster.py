"""One cache on a distributed filesystem with two nodes: many at once, cold, against one pull and as many warm runs; and
what a waiter asks of the filesystem.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person
from tests.support.sharedfs import SharedFs

PROCESSES = 64
TARGET = "at most 1.3"
WATCHED = 10.0  # seconds for which a waiter is watched
METADATA = "openat,stat,lstat,newfstatat,statx,access,faccessat,faccessat2,mkdir,unlink,rename,link,getdents64,flock"


class Storm(NamedTuple):
    """Seconds: of one cold run, of `PROCESSES` warm ones at once, of as many cold ones at once; and what was sent."""

    pull: float
    warm: float
    cold: float
    manifests: int
    blobs: int
    again: int

    @property
    def ratio(self) -> float:
        return self.cold / (self.pull + self.warm)


class Nodes:
    """hpcc as one user on two nodes, with caches on their common filesystem."""

    def __init__(self, fs: SharedFs, user: Person, hpcc: str, registry: DockerRegistry, image: str) -> None:
        self._fs, self._user, self._hpcc, self._registry = fs, user, hpcc, registry
        self.uri = f"docker://{registry.host}/{image}"

    def new_cache(self) -> str:
        name = f"cache-{time.time_ns()}"
        path = self._fs.nodes[0].mount / name
        path.mkdir()
        os.chown(path, self._user.uid, self._user.gid)
        return name

    def argv(self, number: int) -> list[str]:
        node = self._fs.nodes[number % 2]
        return node.argv([self._hpcc, "exec", self.uri, "/bin/true"], self._user)

    def env(self, number: int, cache: str) -> dict[str, str]:
        place = self._fs.nodes[number % 2].mount / cache
        return self._user.environ({"HPCC_INSECURE": self._registry.host, "HPCC_CACHE_DIR": str(place)})

    def run(self, cache: str, processes: int) -> float:
        """Seconds that so many at once take, half of them on each node."""
        begun = time.perf_counter()
        runs = [
            subprocess.Popen(self.argv(n), env=self.env(n, cache), stdin=subprocess.DEVNULL, cwd=self._user.home,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for n in range(processes)
        ]  # fmt: skip
        ended = [(run.communicate()[1], run.returncode) for run in runs]
        wall = time.perf_counter() - begun
        if bad := [said for said, status in ended if status]:
            raise SystemExit(f"a run on the cluster failed:\n{bad[0]}")
        return wall


def storm(nodes: Nodes, registry: DockerRegistry) -> Storm:
    first = nodes.new_cache()
    pull = nodes.run(first, 1)
    warm = nodes.run(first, PROCESSES)
    before = len(registry.requests())
    cold = nodes.run(nodes.new_cache(), PROCESSES)
    sent = [(method, path) for method, path, _ in registry.requests()[before:]]
    blobs = [path for method, path in sent if method == "GET" and "/blobs/" in path]
    manifests = sum(method == "GET" and "/manifests/" in path for method, path in sent)
    return Storm(pull, warm, cold, manifests, len(set(blobs)), len(blobs) - len(set(blobs)))


def waiter_operations(user: Person, hpcc: str, top: Path) -> float | None:
    """Metadata operations a second of one who waits for somebody's pull, in its second ten seconds; None without
    strace.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    script = (
        "import sys, time; from hpcc.cache.flight import single_flight; from hpcc.cache.layout import Cache\n"
        "from hpcc.cache.locking import Locking\n"
        "work = lambda tell: (print('held', flush=True), time.sleep(60))\n"
        "look = lambda: Cache(sys.argv[1]).read(sys.argv[1] + '/refs/x', 100)\n"
        "single_flight(Cache(sys.argv[1]), 'n', look, work, Locking('lease', 60))"
    )
    python = str(Path(hpcc).with_name("python"))
    cache = top / "waiting"
    cache.mkdir()
    os.chown(cache, user.uid, user.gid)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    holder = user.popen([python, "-c", script, str(cache)], text=True, **pipes)
    holder.stdout.readline()
    log = top / "waiter.strace"
    waiter = user.popen([python, "-c", script, str(cache)], **{**pipes, "stdout": subprocess.DEVNULL})
    try:
        time.sleep(WATCHED)
        tracer = subprocess.Popen([strace, "-f", "-e", f"trace={METADATA}", "-o", str(log), "-p", str(waiter.pid)],
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(WATCHED)
        tracer.terminate()
        tracer.wait()
    finally:
        for each in (waiter, holder):
            each.kill()
            each.wait()
    lines = [line for line in log.read_text().splitlines() if re.search(rf"{cache}", line) or "flock(" in line]
    return len(lines) / WATCHED


def show(found: Storm, operations: float | None) -> None:
    print(f"\none cache, two nodes, {PROCESSES} processes at once")
    print(f"  one cold run {found.pull:.2f} s, warm ones {found.warm:.2f} s, cold ones {found.cold:.2f} s")
    print(f"  ratio {found.ratio:.2f}   target: {TARGET}")
    print(f"  sent: {found.manifests} manifest GETs, {found.blobs} blobs, {found.again} again   target: 2, each once")
    if operations is not None:
        print(f"  a waiter: {operations:.1f} metadata operations a second, after ten seconds")
