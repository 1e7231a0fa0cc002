"""Locks and leases between processes: who works, who waits, and who takes over when somebody dies."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpcc.cache.filesystem import filesystem_of
from hpcc.cache.flight import Tell, single_flight
from hpcc.cache.layout import Cache
from hpcc.cache.locking import COHERENT, Lock, Locking, uses_flock
from tests.support.people import Person
from tests.support.pulls import Told, call_as, pull

HOLD = """
import sys, time
from hpcc.cache.flight import single_flight
from hpcc.cache.layout import Cache
from hpcc.cache.locking import COHERENT, Lock, Locking, uses_flock
def work(tell):
    tell("Pulling, 43 % of 167 MB")
    print("held", flush=True)
    time.sleep(60)
single_flight(Cache(sys.argv[1]), "n", lambda: None, work, Locking(sys.argv[2], 1, float(sys.argv[3]), 0.1))
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(str(tmp_path / "cache"))
    cache.make_directory("locks")
    return cache


def holder(cache: Cache, kind: str, lease: float = 60.0) -> "subprocess.Popen[str]":
    """Another process that has the lock "n"."""
    argv = [sys.executable, "-c", HOLD, cache.root, kind, str(lease)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["flock", "lease", "auto"])
def test_who_is_killed_is_noticed_at_once(cache: Cache, kind: str) -> None:
    """On this host, whatever the lease."""
    process = holder(cache, kind)
    locking = Locking(kind, 10, 60, 0.1)
    with Lock(cache, "n", locking).hold() as held:
        assert not held
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = time.monotonic()
    assert single_flight(cache, "n", lambda: None, lambda tell: "mine", locking) == "mine"
    assert time.monotonic() - begun < 2


def test_who_stands_still_loses_a_lease(cache: Cache) -> None:
    """As a holder on another host that died: nobody renews it. Renewed, it stays."""
    process = holder(cache, "lease", 1.0)
    locking = Locking("lease", 20, 1.0, 0.1)
    time.sleep(1.5)
    with Lock(cache, "n", locking).hold() as held:
        assert not held
    process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert single_flight(cache, "n", lambda: None, lambda tell: "mine", locking) == "mine"
        assert 0.5 < time.monotonic() - begun < 10
    finally:
        process.kill()
        process.wait()


def test_leases_of_other_lengths_do_not_meet(cache: Cache) -> None:
    """They would judge each other wrongly; work done twice is the lesser evil."""
    process = holder(cache, "lease", 60.0)
    with Lock(cache, "n", Locking("lease", 0, 30.0, 5.0)).hold() as held:
        assert held
    process.kill()
    process.wait()


def test_waiters_are_told_who_since_when_and_how_far(cache: Cache) -> None:
    told: list[str] = []
    process = holder(cache, "flock")
    timer = threading.Timer(1.0, process.kill)
    timer.start()
    assert single_flight(cache, "n", lambda: None, lambda tell: "x", Locking(wait=10), on_wait=told.append) == "x"
    process.wait()
    (line,) = told
    assert re.search(rf"on \S+, process {process.pid}, since \d\d:\d\d:\d\d: Pulling, 43 % of 167 MB", line)


def test_names_are_in_no_lock(cache: Cache) -> None:
    with Lock(cache, "registry.example/secret/project:1", Locking("flock")).hold(), \
         Lock(cache, "registry.example/secret/project:1", Locking("lease")).hold():  # fmt: skip
        for name in os.listdir(cache.path("locks")):
            assert "secret" not in name and b"secret" not in Path(cache.path("locks", name)).read_bytes()


def test_which_kind_where(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uses_flock(cache, "auto") and uses_flock(cache, "flock") and not uses_flock(cache, "lease")
    monkeypatch.setattr("hpcc.cache.locking.is_local", lambda path: False)
    assert not uses_flock(cache, "auto")
    Path(cache.path("locks", COHERENT)).write_text("")
    assert uses_flock(cache, "auto")


MOUNTS = """\
22 1 98:0 / / rw,noatime - ext4 /dev/root rw
40 22 0:40 / /scratch rw - lustre mds@tcp:/fs rw,localflock
41 40 0:41 / /scratch/tmp rw shared:3 master:1 - tmpfs tmpfs rw
42 22 0:42 / /with\\040space rw - nfs4 server:/x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/scratch", "lustre"), ("/scratch/a/b", "lustre"), ("/scratch/tmp/x", "tmpfs"),
     ("/scratchy", "ext4"), ("/with space/x", "nfs4")],
)  # fmt: skip
def test_filesystems_by_mountinfo(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert filesystem_of(path, str(tmp_path / "mountinfo")) == kind
    assert filesystem_of(path, str(tmp_path / "none")) == ""


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_many_pull_once_by_either(fake, hpcc_env: Path, kind: str) -> None:
    registry = fake(index=True)
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                pull(registry, hpcc_env, HPCC_LOCK=kind)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    assert (registry.counts["manifest_get"], registry.counts["blob_get"]) == (2, 3)
    assert not [name for name in os.listdir(hpcc_env / "cache/locks") if ".lease" in name]


def test_a_warm_run_takes_no_lock(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    pull(registry, hpcc_env)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a lock was taken")

    monkeypatch.setattr("hpcc.cache.locking.FileLock", refuse)
    monkeypatch.setattr("hpcc.cache.locking.Lease", refuse)
    assert pull(registry, hpcc_env, told=Told())


@pytest.mark.root
@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_two_users_of_a_group(open_dir: Path, plain_user: Person, kind: str) -> None:
    """A member waits for another, and takes over from one who died."""
    root = open_dir / "cache"
    root.mkdir()
    os.chown(root, 0, plain_user.gid)
    root.chmod(0o3770)
    cache = Cache(str(root))
    locking = Locking(kind, 5, 60, 0.1)

    def free() -> bool:
        with Lock(cache, "n", locking).hold() as held:
            return held

    def work(tell: Tell) -> bool:
        return call_as(plain_user, free)

    assert single_flight(cache, "n", lambda: None, work, locking) is False
    assert call_as(plain_user, free)
    process = holder(cache, kind)
    process.kill()
    process.wait()
    assert call_as(plain_user, free)
