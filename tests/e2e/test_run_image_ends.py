"""How runs that write to an ext3 end, whoever is killed; plans and instances with images."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.e2e.test_run_images import BUSY, Holding, home, overlay  # noqa: F401
from tests.e2e.test_run_signals import left_over
from tests.support.filesystems import edit_ext, is_clean, make_ext, make_journal_dirty, make_squashfs
from tests.support.images import Images


@pytest.mark.parametrize(
    "mode", [(), ("--containall",), ("--containall", "--no-init")], ids=["default", "init", "bare"]
)
def test_status_and_signals(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:  # noqa: F811
    path = overlay(hpcc)
    flags = ("--overlay", path, *mode)
    assert hpcc.sh(image.main, "echo x > /etc/x; exit 7", *flags).returncode == 7 and is_clean(path)
    assert hpcc.sh(image.main, "echo y > /etc/y; sh -c 'kill -9 $$'; exit $?", *flags).returncode == 137
    assert hpcc("exec", *flags, image.main, "no-such-command").returncode == 255 and is_clean(path)
    done = hpcc("exec", *flags, "-B", "/no/such:/mnt", image.main, "true")
    assert done.returncode == 255 and "/no/such" in done.stderr and is_clean(path)
    data = bytes(range(256)) * 1000
    done = hpcc.sh(image.main, "cat; echo err >&2", *flags, input=data, text=False)
    assert done.stdout == data and done.stderr == b"err\n"
    script = "trap 'echo got > /etc/got; exit 9' TERM; echo ready; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done"
    running = hpcc.person.popen(
        [str(hpcc.installed.hpcc), "exec", *map(str, flags), str(image.main), "sh", "-c", script],
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None and running.stdout.readline() == b"ready\n"
    running.terminate()
    assert running.wait(timeout=30) == 9 and is_clean(path)
    assert hpcc.out(image.main, "cat /etc/x /etc/y /etc/got", "--overlay", f"{path}:ro") == "x\ny\ngot\n"


def test_a_payload_that_is_killed(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    assert hpcc.sh(image.main, "echo k > /etc/k; kill -9 $$", "--overlay", path).returncode == 137
    assert is_clean(path) and hpcc.out(image.main, "cat /etc/k", "--overlay", f"{path}:ro") == "k\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the processes in another's namespace")
@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; sleep 60; sleep 60", "exec 9>/etc/open; sleep 60"])
def test_what_is_left_behind_ends_with_the_run(hpcc: Hpcc, image: Images, script: str) -> None:  # noqa: F811
    path, mark = overlay(hpcc), uuid.uuid4().hex
    started = time.monotonic()
    script = f"({script}) >/dev/null 2>&1 & sleep 0.2; echo done > /etc/done"
    env = {"APPTAINERENV_MARK": mark, "HPCC_HOLD_IDLE": "0"}
    assert hpcc.sh(image.main, script, "--overlay", path, env=env).returncode == 0
    assert time.monotonic() - started < 30 and is_clean(path)
    assert left_over(mark) == {}
    assert hpcc.out(image.main, "cat /etc/done", "--overlay", path) == "done\n"


def test_children_of_the_shell_that_became_hpcc_are_spared(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    script = f"""(sleep 1; sleep 1.5 & sleep 0.1; echo job > job) & (sleep 0.1; exit 3) &
        exec '{hpcc.installed.hpcc}' exec --overlay '{path}' '{image.main}' \\
            sh -c 'sleep 60 & sleep 0.4; echo x > /etc/x'"""
    done = hpcc.person.run(["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 20
    while not (hpcc.person.home / "job").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert is_clean(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the processes in another's namespace")
@pytest.mark.parametrize("mode", [(), ("--containall",)], ids=["default", "containall"])
def test_hpcc_is_killed(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:  # noqa: F811
    """The payload goes with it; the daemon writes what it has and goes, and with it the lock."""
    path = overlay(hpcc)
    holding = Holding(hpcc, "--no-hold", "--overlay", path, *mode, image.main, script="echo x > /etc/x")
    os.kill(holding.process.pid, signal.SIGKILL)
    holding.process.wait()
    assert left_over(holding.mark, 10) == {}
    deadline = time.monotonic() + 10
    while (done := hpcc("exec", "--overlay", path, image.main, "cat", "/etc/x")).returncode == BUSY:
        assert time.monotonic() < deadline
    assert done.stdout == "x\n" and is_clean(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the processes in another's namespace")
def test_a_daemon_that_is_killed(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """The run is over with errors of the payload; the next run that writes checks the image first."""
    path = overlay(hpcc)
    holding = Holding(hpcc, "--overlay", path, image.main, script="echo x > /etc/x")
    (daemon,) = [pid for pid, words in _daemons(path)]
    os.kill(daemon, signal.SIGKILL)
    assert holding.end() != 0
    assert "not clean" in edit_ext(path, "stats -h")
    assert hpcc("exec", "--overlay", f"{path}:ro", image.main, "true").returncode == 0
    assert hpcc.sh(image.main, "echo y > /etc/y", "--overlay", path).returncode == 0
    assert is_clean(path) and "not clean" not in edit_ext(path, "stats -h")


def _daemons(path: Path) -> list[tuple[int, str]]:
    """The processes fuse2fs that have the file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() != "fuse2fs\n":
                continue
            if any(os.readlink(fd) == str(path) for fd in (process / "fd").iterdir()):
                found.append((int(process.name), "fuse2fs"))
        except OSError:
            continue
    return found


def test_a_journal_that_is_to_be_replayed(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = make_ext(home / "j.img", {"upper/srv/which": "kept\n", "work/.k": ""}, hpcc.person)
    make_journal_dirty(path)
    before = path.read_bytes()
    assert hpcc.out(image.main, "cat /srv/which", "--overlay", f"{path}:ro") == "kept\n"
    assert hpcc.out(image.main, "cat /mnt/srv/which", "-B", f"{path}:/mnt:image-src=/upper,ro") == "kept\n"
    assert path.read_bytes() == before  # who reads does not write
    assert hpcc.out(image.main, "cat /srv/which; echo n > /srv/n", "--overlay", path) == "kept\n"
    assert is_clean(path) and "needs_recovery" not in edit_ext(path, "features")


# -- plans and instances -----------------------------------------------------------------------------------------------


def test_dry_run_shows_it_and_touches_nothing(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = overlay(hpcc)
    squashfs = make_squashfs(home / "s.sqfs", {"data/x": "x"}, hpcc.person)
    flags = ("--overlay", path, "-B", f"{squashfs}:/mnt:image-src=/data")
    with Holding(hpcc, "--overlay", path, image.main):
        done = hpcc("exec", "--dry-run", *flags, image.main, "true")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"MountImage number=1, path='{path}', kind='ext'" in lines
    assert f"MountImage number=2, path='{squashfs}', kind='squashfs', readonly=True" in lines
    assert "StayBeside" in lines
    assert any(line.startswith("BindMount source='/data', target='/mnt'") and "image=2" in line for line in lines)
    assert "StayBeside" not in hpcc("exec", "--dry-run", "--overlay", f"{path}:ro", image.main, "true").stdout
    assert "StayBeside" not in hpcc("exec", "--dry-run", "--pid", "--overlay", path, image.main, "true").stdout


def test_instances(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path, name = overlay(hpcc), f"i{uuid.uuid4().hex[:8]}"
    done = hpcc("instance", "start", "--overlay", path, image.main, name)
    assert done.returncode == 0, done.stderr
    try:
        done = hpcc("exec", f"instance://{name}", "sh", "-c", "echo inst > /etc/inst; cat /etc/inst")
        assert done.stdout == "inst\n", done.stderr
        assert hpcc("exec", "--overlay", f"{path}:ro", image.main, "true").returncode == BUSY
        done = hpcc("instance", "start", "--overlay", path, image.main, f"{name}b")
        assert done.returncode == BUSY and "in use" in done.stderr
    finally:
        assert hpcc("instance", "stop", name).returncode == 0
    assert is_clean(path) and hpcc.out(image.main, "cat /etc/inst", "--overlay", path) == "inst\n"
    assert f"{name}" not in hpcc("instance", "list").stdout


def test_held_roots_do_not_hold_images(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    env = {"HPCC_HOLD_IDLE": "20"}
    for number in range(3):
        assert hpcc.out(image.main, f"echo {number} >> /etc/n; cat /etc/n", "--overlay", path, env=env).split()[-1] == (
            str(number)
        )
        assert is_clean(path)
