"""Many at once, and killed at any moment: one pull, one conversion, the same bytes, nothing half-written.

`make soak` does it with more: HPCC_SOAK=1.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller
from tests.support.installation import Installation
from tests.support.people import Person

SOAK = os.environ.get("HPCC_SOAK", "") not in ("", "0")
PROCESSES = 500 if SOAK else 64
KILLS = 200 if SOAK else 30
LOCKS = ["flock", "lease"]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100_000) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield registry


@pytest.fixture
def hpcc(plain_user: Person, installed: Installation, registry: FakeRegistry, open_dir: Path) -> Puller:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return Puller(plain_user.at(home), installed, registry)


def start(hpcc: Puller, *argv: str, **env: str) -> "subprocess.Popen[str]":
    words = [str(hpcc.installed.hpcc), *argv]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return hpcc.person.popen(words, env={**hpcc.env, **env}, text=True, **pipes)


def check_cache(hpcc: Puller) -> None:
    """No object ever has a wrong digest or is cut; what is left in tmp/ are partials that the next one goes on from."""
    for path in (hpcc.cache / "oci/blobs/sha256").glob("*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for path in (hpcc.cache / "sif-v1").glob("*"):
        assert path.stat().st_mode & 0o777 == 0o444 and path.read_bytes()[:2] == b"#!"


@pytest.mark.parametrize("lock", LOCKS)
def test_many_at_once_on_an_empty_cache(hpcc: Puller, lock: str) -> None:
    """One conversion, at most two counted requests, each blob once; all end well."""
    runs = [start(hpcc, "exec", hpcc.uri, "cat", "/etc/greeting", HPCC_LOCK=lock) for _ in range(PROCESSES)]
    ended = [(run.communicate(timeout=600), run.returncode) for run in runs]
    bad = [(status, err) for (out, err), status in ended if (status, out) != (0, "hello from the image\n")]
    assert bad == []
    assert hpcc.registry.counts["manifest_get"] <= 2
    assert hpcc.registry.counts["manifest_head"] == 1
    blobs = [path for method, path in hpcc.registry.requests if method == "GET" and "/blobs/" in path]
    assert len(blobs) == len(set(blobs)) == len(LAYERS) + 1
    assert len(list((hpcc.cache / "sif-v1").iterdir())) == 1
    assert list((hpcc.cache / "tmp").iterdir()) == []
    check_cache(hpcc)


def test_many_warm_runs_send_nothing(hpcc: Puller) -> None:
    assert hpcc("pull", hpcc.uri).returncode == 0
    asked = len(hpcc.registry.requests)
    runs = [start(hpcc, "exec", hpcc.uri, "cat", "/etc/greeting") for _ in range(PROCESSES)]
    assert [(run.communicate(timeout=600)[0], run.returncode) for run in runs] == [
        ("hello from the image\n", 0)
    ] * PROCESSES
    assert len(hpcc.registry.requests) == asked


@pytest.mark.parametrize("lock", LOCKS)
def test_killed_at_any_moment(hpcc: Puller, lock: str) -> None:
    """After each kill the next pull succeeds and gives the same bytes."""
    assert hpcc("pull", "good.sif", hpcc.uri).returncode == 0
    good = hpcc.path("good.sif").read_bytes()
    begun = time.monotonic()
    shutil.rmtree(hpcc.cache)
    assert hpcc("pull", "--force", "good.sif", hpcc.uri, env={"HPCC_LOCK": lock}).returncode == 0
    span = time.monotonic() - begun
    chance = random.Random(lock)
    for number in range(KILLS // 2):
        shutil.rmtree(hpcc.cache)
        hpcc.registry.faults = Faults(delay=0.02 * chance.random())
        run = start(hpcc, "pull", "--force", "it.sif", hpcc.uri, HPCC_LOCK=lock)
        time.sleep(chance.random() * span * 1.2)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)
        it = hpcc.path("it.sif")
        assert not it.exists() or it.read_bytes() == good, number  # whole, or not there
        check_cache(hpcc)
        done = hpcc("pull", "--force", "it.sif", hpcc.uri, env={"HPCC_LOCK": lock})
        assert done.returncode == 0, done.stderr
        assert it.read_bytes() == good, number
        it.unlink()
        check_cache(hpcc)
    for path in hpcc.cache.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    for _ in range(2):
        assert hpcc("cache", "gc", "--grace", "0").returncode == 0
    assert list((hpcc.cache / "tmp").glob("*")) == list((hpcc.cache / "trash").glob("*")) == []
    assert not [path for path in (hpcc.cache / "locks").iterdir() if path.suffix != ".who" and path.stat().st_size]


def test_gc_killed_at_any_moment(hpcc: Puller) -> None:
    """Whatever is gone by then, the next run has its image, and the next gc goes on."""
    chance = random.Random(3)
    for number in range(KILLS // 3):
        assert hpcc("exec", hpcc.uri, "cat", "/etc/greeting").stdout == "hello from the image\n", number
        run = start(hpcc, "cache", "gc", "--grace", "0", "--max-size", "1KB")
        time.sleep(chance.random() * 0.3)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)
        check_cache(hpcc)
        done = hpcc("exec", hpcc.uri, "cat", "/etc/greeting")
        assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
    for _ in range(2):
        assert hpcc("cache", "gc", "--grace", "0", "--max-size", "1KB").returncode == 0
    assert list((hpcc.cache / "trash").glob("*")) == []


def test_things_vanish_under_running_commands(hpcc: Puller) -> None:
    """Purged scratch: any object, at any time, is a miss and no error."""
    chance = random.Random(7)
    assert hpcc("pull", hpcc.uri).returncode == 0
    runs = []
    for _ in range(KILLS):
        runs.append(start(hpcc, "exec", "--pull", chance.choice(["newer", "always"]), hpcc.uri, "cat", "/etc/greeting"))
        time.sleep(chance.random() * 0.05)
        objects = [path for path in hpcc.cache.rglob("*") if path.is_file() and "locks" not in path.parts]
        for path in chance.sample(objects, min(3, len(objects))):
            path.unlink(missing_ok=True)
        if chance.random() < 0.1:
            shutil.rmtree(hpcc.cache / chance.choice(["sif-v1", "packs-v1", "oci/blobs", "refs"]), ignore_errors=True)
    ended = [(run.communicate(timeout=600), run.returncode) for run in runs]
    assert [err for (out, err), status in ended if (status, out) != (0, "hello from the image\n")] == []
    check_cache(hpcc)


def test_clocks_that_jump(hpcc: Puller) -> None:
    """A ref, a use and a lock from the future or the past cost a request at most."""
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    for seconds in (10 * 365 * 86400, -10 * 365 * 86400):
        when = time.time() + seconds
        for path in hpcc.cache.rglob("*"):
            os.utime(path, (when, when))
        for ref in (hpcc.cache / "refs").rglob("*"):
            if ref.is_file():
                ref.chmod(0o644)
                ref.write_text(ref.read_text().partition('"checked_at":')[0] + f'"checked_at":{max(when, 0)}}}')
        done = hpcc("exec", hpcc.uri, "cat", "/etc/greeting")
        assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
        assert hpcc.registry.counts["manifest_get"] <= 2
