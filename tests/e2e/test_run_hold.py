"""Held roots: shared by several runs, gone when idle, never needed."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.e2e.test_run_signals import left_over
from tests.support.images import copy_of, images, marked
from tests.support.installation import Installation
from tests.support.people import Person

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the processes in another's namespace")


class Held:
    """Runs of an image of its own, whose processes can be told from all others."""

    def __init__(
        self, person: Person, installed: Installation, directory: Path, idle: float, rootfs: str = "fuse"
    ) -> None:
        self.person, self.hpcc = person, str(installed.hpcc)
        self.image = copy_of(images().main, directory)
        self.mark = uuid.uuid4().hex
        self.env = {"HPCC_MARK": self.mark, "HPCC_HOLD_IDLE": str(idle), "HPCC_ROOTFS": rootfs}
        self.directory = person.home / "node/held"

    def run(self, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.person.run([self.hpcc, "exec", self.image, *argv], env={**self.env, **env})

    def popen(self, *argv: str) -> "subprocess.Popen[str]":
        command = [self.hpcc, "exec", str(self.image), *argv]
        return self.person.popen(command, env=self.env, stdout=-1, stdin=-1, text=True)

    def daemons(self) -> list[int]:
        return [
            pid
            for pid, command in marked(self.mark).items()
            if command.startswith("hpcc-squashfs") or "squashfuse_ll" in command
        ]

    def holders(self) -> list[int]:
        """By the files that name them, of those that live."""
        files = [path for path in self.directory.glob("*") if path.suffix == ""]
        pids = [int(path.read_text().split()[0]) for path in files]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def held(runs_as: Person, installed: Installation, open_dir: Path, request: pytest.FixtureRequest) -> Held:
    return Held(runs_as, installed, open_dir, getattr(request, "param", 1.0))


held_for = pytest.mark.parametrize


@held_for("held", [30.0], indirect=True)
def test_runs_at_once_share_one(held: Held) -> None:
    processes = [held.popen("sh", "-c", "sleep 0.3; cat /etc/os-release") for _ in range(8)]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and out.startswith("ID=hpcc-demo")
    assert len(held.daemons()) == 1 and len(held.holders()) == 1
    before = held.holders()
    assert held.run("true").returncode == 0
    assert held.holders() == before and len(held.daemons()) == 1
    os.kill(before[0], signal.SIGKILL)
    assert left_over(held.mark) == {}


def test_it_goes_when_it_is_idle(held: Held) -> None:
    assert held.run("true").returncode == 0
    assert held.holders()
    assert left_over(held.mark, 4.0) == {}
    assert [path.name for path in held.directory.iterdir() if path.suffix != ".lock"] == []


def test_each_use_keeps_it(held: Held) -> None:
    assert held.run("true").returncode == 0
    (holder,) = held.holders()
    for _ in range(6):
        time.sleep(0.4)
        assert held.run("true").returncode == 0
    assert held.holders() == [holder]
    assert left_over(held.mark, 4.0) == {}


def test_runs_that_joined_live_on(held: Held) -> None:
    process = held.popen("sh", "-c", "read line; ls /usr/bin | wc -l; cat /etc/os-release")
    deadline = time.monotonic() + 20
    while not held.holders() and time.monotonic() < deadline:
        time.sleep(0.02)
    (holder,) = held.holders()
    while Path(f"/proc/{holder}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{holder}").exists() and process.poll() is None
    out, _ = process.communicate("go\n", timeout=20)
    assert process.returncode == 0 and "ID=hpcc-demo" in out
    assert left_over(held.mark) == {}


@held_for("held", [30.0], indirect=True)
def test_after_kill_of_holder_or_daemon_the_next_run_works(held: Held) -> None:
    assert held.run("true").returncode == 0
    (holder,) = held.holders()
    os.kill(holder, signal.SIGKILL)
    assert held.run("cat", "/etc/os-release").stdout.startswith("ID=")
    for daemon in held.daemons():
        os.kill(daemon, signal.SIGKILL)
    time.sleep(0.2)
    done = held.run("cat", "/etc/os-release")
    assert done.stdout.startswith("ID="), done.stderr
    for pid in held.holders():
        os.kill(pid, signal.SIGKILL)
    assert left_over(held.mark) == {}


@held_for("held", [30.0], indirect=True)
def test_a_recycled_pid_is_not_joined(held: Held) -> None:
    """A file that names a living process which is no holder: its start time tells."""
    assert held.run("true").returncode == 0
    (path,) = [path for path in held.directory.iterdir() if path.suffix == ""]
    old = int(path.read_text().split()[0])
    stranger = held.person.popen(["sleep", "60"])
    try:
        path.write_text(f"{stranger.pid} 12345")
        assert held.run("cat", "/etc/os-release").stdout.startswith("ID=")
        assert int(path.read_text().split()[0]) not in (stranger.pid, old)
    finally:
        stranger.kill()
        stranger.wait()
        for pid in {old, *held.holders()}:
            os.kill(pid, signal.SIGKILL)
    assert left_over(held.mark) == {}


@held_for("held", [30.0], indirect=True)
def test_jobs_and_images_do_not_share(held: Held, open_dir: Path) -> None:
    assert held.run("true").returncode == 0
    assert held.run("true", SLURM_JOB_ID="17").returncode == 0
    assert len(held.holders()) == 2
    changed = images().distroless.read_bytes()
    held.image.write_bytes(changed)  # the same path, another image
    assert held.run("/busybox", "echo", "other").stdout == "other\n"
    assert len(held.holders()) == 3
    for pid in held.holders():
        os.kill(pid, signal.SIGKILL)
    assert left_over(held.mark) == {}


def test_no_hold_and_zero_hold_nothing(held: Held) -> None:
    assert held.run("true", HPCC_HOLD_IDLE="0").returncode == 0
    done = held.person.run([held.hpcc, "exec", "--no-hold", held.image, "true"], env=held.env)
    assert done.returncode == 0
    assert left_over(held.mark, 1.0) == {} and not held.holders()


def test_writable_runs_share_the_image_and_not_the_layer(held: Held) -> None:
    first = held.popen("true")
    first.communicate(timeout=20)
    script = "echo mine > /own/uid0/$0 && sleep 0.3 && ls /own/uid0"
    argv = [held.hpcc, "exec", "--writable-tmpfs", str(held.image), "sh", "-c", script]
    runs = [held.person.popen([*argv, f"of{n}"], env=held.env, stdout=-1, text=True) for n in range(3)]
    for n, process in enumerate(runs):
        out, _ = process.communicate(timeout=30)
        assert out.split() == ["gone", "moved", f"of{n}", "old"]
    assert left_over(held.mark, 5.0) == {}
