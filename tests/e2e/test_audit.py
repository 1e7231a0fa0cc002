"""The setting audit: a line in /dev/log, which each test has for itself, in a mount namespace."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.images import Images

pytestmark = pytest.mark.root
_OWN_DEV = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for name in null zero full random urandom tty fuse; do : >"$1/$name"; mount --bind /dev/$name "$1/$name"; done
for name in pts shm; do mkdir "$1/$name"; mount --rbind /dev/$name "$1/$name"; done
ln -s /proc/self/fd "$1/fd"
ln -s "$2" "$1/log"
mount --rbind "$1" /dev
shift 2
exec "$@"
"""


class Log:
    """What was written to /dev/log by what `run` ran."""

    def __init__(self, directory: Path, hpcc: Hpcc) -> None:  # noqa: F811
        self.hpcc, self.dev, self.path = hpcc, directory / "dev", directory / "log"
        self.dev.mkdir()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        self.path.chmod(0o666)

    def run(self, *argv: object, **env: str) -> "subprocess.CompletedProcess[str]":
        person = self.hpcc.person
        words = person.argv([str(self.hpcc.installed.hpcc), *map(str, argv)])
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", _OWN_DEV, "sh", self.dev, self.path, *words],
            env=person.environ({"HPCC_AUDIT": "1", **env}), cwd=person.home, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def lines(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().partition("]: ")[2])
            except BlockingIOError:
                return found


@pytest.fixture
def log(hpcc: Hpcc, open_dir: Path) -> Iterator[Log]:  # noqa: F811
    log = Log(open_dir, hpcc)
    yield log
    log.socket.close()


def test_each_start_is_a_line(log: Log, image: Images) -> None:  # noqa: F811
    person = log.hpcc.person
    head = f"uid={person.uid} user={person.name}"
    reference = log.hpcc("inspect", "--json", image.main).stdout
    assert "registry.example/tests/main@sha256:" in reference
    done = log.run("exec", image.main, "echo", "--password=secret", SLURM_JOB_ID="41", SLURM_STEP_ID="0")
    assert done.stdout == "--password=secret\n", done.stderr
    (line,) = log.lines()
    assert line.startswith(f"exec {head} job=41.0 image=registry.example/tests/main@sha256:")
    assert line.endswith(" command=echo") and "secret" not in line
    assert log.run("run", image.main, "argument").returncode == 0
    assert log.lines()[0].endswith(" command=/usr/local/bin/words")
    assert log.run("exec", image.squashfs, "true").returncode == 0
    assert log.lines() == [f"exec {head} image={image.squashfs} command=true"]
    assert log.run("exec", "--dry-run", image.main, "true").returncode == 0 and log.lines() == []
    assert log.run("exec", image.main, "true", HPCC_AUDIT="0").returncode == 0 and log.lines() == []


def test_instances(log: Log, image: Images) -> None:  # noqa: F811
    try:
        done = log.run("instance", "start", image.main, "web", "argument")
        assert done.returncode == 0, done.stderr
        (line,) = log.lines()
        assert line.startswith("instance start uid=") and line.endswith(" instance=web") and "argument" not in line
        log.run("exec", "instance://web", "true", "x")
        (line,) = log.lines()
        assert line.startswith("exec uid=") and line.endswith(" instance=web command=true")
    finally:
        log.hpcc("instance", "stop", "--all")


def test_a_log_that_nobody_reads_stops_nothing(log: Log, image: Images) -> None:  # noqa: F811
    log.socket.close()
    assert log.run("exec", image.main, "echo", "x").stdout == "x\n"
    os.unlink(log.path)
    assert log.run("exec", image.main, "echo", "x").stdout == "x\n"
