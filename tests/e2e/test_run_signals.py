"""Signals: they reach the payload once, its end is ours, and nothing outlives it."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.support.images import Images, images, marked
from tests.support.installation import Installation
from tests.support.people import Person

MODES = {
    "default": (),
    "containall": ("--containall",),
    "no-init": ("--containall", "--no-init"),
    "compat": ("--compat",),
}
EACH_MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
NO_HOLD = {"HPCC_HOLD_IDLE": "0"}


@pytest.fixture
def image() -> Images:
    return images()


class Running:
    """A payload that has said "ready". `mark` stands in the environment of hpcc, and of all that it starts."""

    def __init__(self, person: Person, argv: list[str]) -> None:
        self.mark = uuid.uuid4().hex
        self.process = person.popen(
            argv, env={"APPTAINERENV_MARK": self.mark}, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.process.poll())

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """(status, what it said after "ready")."""
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out


Start = Callable[..., Running]


@pytest.fixture
def start(runs_as: Person, installed: Installation) -> Iterator[Start]:
    running: list[Running] = []

    def begin(image: object, script: str, *flags: str, shell: str = "sh") -> Running:
        argv = [str(installed.hpcc), "exec", *flags, str(image), shell, "-c", script]
        running.append(Running(runs_as, argv))
        return running[-1]

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()


def left_over(mark: str, seconds: float = 3.0) -> dict[int, str]:
    """What is still there of a run after it had `seconds` to go."""
    deadline = time.monotonic() + seconds
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def end_sleepers(mark: str) -> None:
    for pid, command in marked(mark).items():
        if command.startswith("sleep"):
            os.kill(pid, signal.SIGKILL)


@EACH_MODE
def test_term_ends_a_payload_without_a_handler(start: Start, image: Images, mode: tuple[str, ...]) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
    # dash answers an INT by raising one against itself, which process 1 of a namespace cannot.
    for script, some in (("echo ready; exec sleep 60", numbers), ("echo ready; sleep 60; true", numbers[:3])):
        for number in some:
            running = start(image.main, script, "--no-hold", *mode)
            if number == signal.SIGINT:
                time.sleep(0.3)  # until the shell has become sleep
            running.send(number)
            status = running.process.wait(20)
            assert status == (128 + number if mode else -number)
            if not mode:  # a child of the payload is the payload's business, as without a container
                end_sleepers(running.mark)
            assert left_over(running.mark) == {}


@EACH_MODE
def test_a_handler_runs_exactly_once(start: Start, image: Images, mode: tuple[str, ...]) -> None:
    script = """n=0; trap 'n=$((n+1)); echo got' TERM USR1; echo ready
    for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo n=$n; exit 3"""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        running = start(image.main, script, *mode)
        running.send(number)
        status, out = running.end()
        assert (status, out) == (3, "got\nn=1\n")


@EACH_MODE
def test_an_ignored_signal_is_ignored(start: Start, image: Images, mode: tuple[str, ...]) -> None:
    running = start(image.main, "trap '' TERM HUP; echo ready; sleep 0.5; echo lived; exit 6", *mode)
    running.send(signal.SIGTERM)
    running.send(signal.SIGHUP)
    assert running.end() == (6, "lived\n")


@EACH_MODE
def test_signals_during_the_start_are_not_lost(
    runs_as: Person, installed: Installation, image: Images, mode: tuple[str, ...]
) -> None:
    for delay in (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08):
        process = runs_as.popen([str(installed.hpcc), "exec", *mode, str(image.main), "sleep", "20"], stderr=-1)
        time.sleep(delay)
        process.terminate()
        started = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - started < 10, delay
        assert process.returncode in (-15, 143), delay


@EACH_MODE
def test_stop_and_continue(start: Start, image: Images, mode: tuple[str, ...]) -> None:
    running = start(image.main, "echo ready; sleep 0.3; echo on; exit 2", *mode)
    running.send(signal.SIGTSTP)
    running.send(signal.SIGCONT)
    assert running.end() == (2, "on\n")


@EACH_MODE
def test_orphans_of_the_payload_are_reaped_or_ended(start: Start, image: Images, mode: tuple[str, ...]) -> None:
    running = start(image.main, "(sleep 30 &) ; echo ready; sleep 0.2; exit 5", "--no-hold", *mode)
    if not mode:
        status = running.process.wait(20)
        end_sleepers(running.mark)
        assert status == 5
    else:
        assert running.end()[0] == 5
    assert left_over(running.mark) == {}


# -- nothing is left ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rootfs", ["fuse", "squashfuse"])
@pytest.mark.parametrize("writable", ["auto", "fuse-overlayfs"])
@EACH_MODE
def test_no_process_is_left_after_a_run(
    runs_as: Person, installed: Installation, image: Images, mode: tuple[str, ...], writable: str, rootfs: str
) -> None:
    mark = uuid.uuid4().hex
    env = {"HPCC_MARK": mark, "HPCC_ROOTFS": rootfs, "HPCC_WRITABLE": writable}
    done = runs_as.run([installed.hpcc, "exec", "--no-hold", *mode, image.main, "ls", "/"], env=env)
    assert done.returncode == 0, done.stderr
    assert left_over(mark, 1.0) == {}


@EACH_MODE
@pytest.mark.parametrize("whom", ["hpcc", "payload", "daemon"])
def test_no_process_is_left_after_kill(start: Start, image: Images, mode: tuple[str, ...], whom: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to see the processes in another's namespace")
    running = start(image.main, "echo ready; while sleep 0.2; do ls /usr/bin >/dev/null; done", "--no-hold", *mode)
    found = marked(running.mark)
    daemons = [pid for pid, command in found.items() if "hpcc-squashfs" in command or "fuse-overlayfs" in command]
    assert daemons
    if whom == "hpcc":
        running.send(signal.SIGKILL)
    elif whom == "payload":
        for pid in [pid for pid, command in found.items() if command.startswith("sh -c")]:
            os.kill(pid, signal.SIGKILL)
    else:
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)
    running.process.wait(20)
    assert left_over(running.mark, 2.0) == {}


def test_a_killed_server_is_told(runs_as: Person, installed: Installation, image: Images) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to see the processes in another's namespace")
    mark = uuid.uuid4().hex
    script = "echo ready; read line; exit 3"
    argv = [installed.hpcc, "exec", "--no-hold", "--containall", image.main, "sh", "-c", script]
    env = {"HPCC_MARK": mark, "HPCC_ROOTFS": "fuse"}
    process = runs_as.popen(argv, env=env, stdin=-1, stdout=-1, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (server,) = [pid for pid, command in marked(mark).items() if command.startswith("hpcc-squashfs")]
    os.kill(server, signal.SIGKILL)
    _, said = process.communicate("go\n", timeout=30)
    assert process.returncode in (3, 135) and "serves the image's files was killed" in said, said


def test_sigchld_ignored_by_who_starts_us(runs_as: Person, installed: Installation, image: Images) -> None:
    for mode in ((), ("--compat",)):
        script = (
            "import os, signal, sys\n"
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        argv = [installed.python, "-c", script, installed.hpcc, "exec", *mode, image.main, "sh", "-c", "true; exit 4"]
        assert runs_as.run(argv, timeout=30).returncode == 4


@EACH_MODE
def test_no_mount_is_left(runs_as: Person, installed: Installation, image: Images, mode: tuple[str, ...]) -> None:
    def mounts() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [line for line in file if str(runs_as.home) in line]

    for env in ({}, NO_HOLD):
        runs_as.run([installed.hpcc, "exec", *mode, image.main, "true"], env=env)
        assert mounts() == []
    assert os.listdir(runs_as.home / "node/stage") == []
