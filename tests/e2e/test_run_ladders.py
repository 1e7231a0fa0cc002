"""Hosts that lack something, played by a seccomp filter: the same output all the same, or an error that says why not.

What each host stands for is told in tests/support/hosts.py.
"""

import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.test_run_signals import left_over
from tests.support import seccomp
from tests.support.hosts import HOSTS
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import Person

pytestmark = pytest.mark.skipif(seccomp.unavailable() is not None, reason=str(seccomp.unavailable()))

ROOT_IS = (
    "sed -n 's/.* [/] [/] .* - \\([^ ]*\\) .*/root is \\1/p; s/.* [/]under [/] .* - \\([^ ]*\\) .*/root is \\1/p; "
)
ROOT_IS += "s/.* [/]upper [/] .* - \\([^ ]*\\) .*/root is \\1/p' /proc/self/mountinfo"  # the kind of the mount at /


class Case(NamedTuple):
    """Options, a script, and what it prints; the last line tells what the container's root is."""

    flags: tuple[str, ...]
    script: str
    prints: str


CASES = {
    "default": Case((), "head -n 1 /etc/os-release; id -u; cat /own/gid8/old", "ID=hpcc-demo\n{uid}\nold of gid8\n"),
    "compat": Case(("--compat",), "cd /own/gid8 && echo x > new && rm gone && cat new; ls", "x\nmoved\nnew\nold\n"),
    "writable-tmpfs": Case(
        ("--writable-tmpfs",), "cd /own/gid50; echo more >> old; mv moved away; cat old away",
        "old of gid50\nmore\nmoved of gid50\n",
    ),
    "bind": Case(("--bind", "{home}:/made/deep/down"), "cat /made/deep/down/mine; ls /made/deep", "mine\ndown\n"),
    "pid": Case(("--pid",), "test $$ -lt 9 && echo own; sleep 0 & wait", "own\n"),
    "containall": Case(("--containall", "--hostname", "box"), "cat /proc/sys/kernel/hostname; ls -A ~", "box\n"),
    "fakeroot": Case(("--fakeroot",), "id -u; head -n 1 /etc/os-release", "0\nID=hpcc-demo\n"),
    "fakeroot-tmpfs": Case(("--fakeroot", "--writable-tmpfs"), "echo x > /opt/f; stat -c %u /opt/f", "0\n"),
    "userns": Case(("--userns",), "cat /proc/self/uid_map | tr -s ' '", " {uid} {uid} 1\n"),
}  # fmt: skip
WRITING = ("compat", "writable-tmpfs", "fakeroot-tmpfs")
AS_USER = ("fakeroot", "fakeroot-tmpfs", "userns")  # in which root goes the way of users too

NO_NAMESPACES = ("this host gives no user namespaces to users", "seccomp filter", "`hpcc doctor`")
NO_MOUNTS = ("this host gives user namespaces but denies mounts", "seccomp filter", "`hpcc doctor`")
ERRORS: dict[str, tuple[str, ...]] = {
    "no-namespaces": NO_NAMESPACES,
    "no-more": NO_NAMESPACES,
    "ubuntu": NO_NAMESPACES,  # a namespace without ids is none
    "no-mounts": NO_MOUNTS,
}
"""Host -> what is said, to users, and to root who goes their way."""

READ_ONLY = {"no-overlay": {"tmpfs"}, "bare": {"tmpfs"}, "ramfs": {"ramfs"}, "rhel8": {"tmpfs"}}
WRITABLE = {"no-overlay": {"fuse"}, "bare": {"tmpfs"}, "ramfs": {"fuse"}, "rhel8": {"fuse"},
            "no-fuse": {"overlay"}, "no-device": {"overlay"}, "shut-device": {"overlay"}}  # fmt: skip
"""Host -> what the root is, for users: a tmpfs where mount points, or a copy, stand in for the overlay."""


class Played:
    """hpcc as one person on a played host; all that it starts is marked."""

    def __init__(self, host: str, person: Person, installed: Installation) -> None:
        self.host, self.person, self.program = host, person, installed.hpcc
        self.mark = uuid.uuid4().hex
        (person.home / "mine").write_text("mine\n")

    def __call__(self, *argv: object) -> "seccomp.subprocess.CompletedProcess[str]":
        env = {"HPCC_MARK": self.mark, "HPCC_HOLD_IDLE": "1"}
        return seccomp.run(HOSTS[self.host], self.person, [self.program, *map(str, argv)], env=env, timeout=60)

    def is_as_user(self, case: str) -> bool:
        return self.person.uid != 0 or case in AS_USER

    def leaves_nothing(self) -> None:
        assert left_over(self.mark, 6.0) == {}
        assert str(self.person.home) not in Path("/proc/self/mountinfo").read_text()
        stage = self.person.home / "node/stage"
        assert not stage.exists() or list(stage.iterdir()) == []


@pytest.fixture(params=HOSTS)
def hpcc(request: pytest.FixtureRequest, runs_as: Person, installed: Installation) -> Played:
    return Played(request.param, runs_as, installed)


def test_the_same_output_or_the_reason(hpcc: Played) -> None:
    image = images().main
    for name, case in CASES.items():
        flags = [flag.format(home=hpcc.person.home) for flag in case.flags]
        done = hpcc("exec", *flags, image, "sh", "-c", f"{case.script}; {ROOT_IS}")
        if hpcc.host in ERRORS and hpcc.is_as_user(name):
            assert done.returncode == 255 and done.stdout == "", (name, done)
            message, hint = done.stderr.splitlines()
            assert message.startswith("FATAL:") and hint.startswith("HINT:"), done.stderr
            assert all(text in done.stderr for text in ERRORS[hpcc.host]), (name, done.stderr)
            continue
        assert done.returncode == 0 and done.stderr == "", (name, done)
        *out, root = done.stdout.splitlines(keepends=True)
        assert "".join(out) == case.prints.format(uid=hpcc.person.uid), (name, done.stdout)
        if hpcc.is_as_user(name):
            wanted = (WRITABLE if name in WRITING else READ_ONLY).get(hpcc.host, {"overlay", "fuse"})
            assert root.split()[-1] in wanted, (name, root)
    hpcc.leaves_nothing()


def test_instances(hpcc: Played) -> None:
    done = hpcc("instance", "start", images().main, "one")
    if hpcc.host in ERRORS and hpcc.person.uid != 0:
        assert done.returncode == 255 and all(text in done.stderr for text in ERRORS[hpcc.host]), done.stderr
        assert hpcc("instance", "list", "--json").stdout.split() == ["{", '"instances":', "[]", "}"]
    else:
        assert done.returncode == 0 and done.stderr == "INFO:    instance started successfully\n", done
        done = hpcc("exec", "instance://one", "head", "-n", "1", "/etc/os-release")
        if hpcc.host in ("no-joining", "no-setns") or (hpcc.host == "half-joining" and hpcc.person.uid != 0):
            assert done.returncode == 255 and "namespaces of instance one" in done.stderr and "setns" in done.stderr
        else:
            assert (done.returncode, done.stdout) == (0, "ID=hpcc-demo\n"), done
        assert hpcc("instance", "stop", "one").returncode == 0
    hpcc.leaves_nothing()


@pytest.mark.parametrize("hpcc", ["no-joining", "no-setns", "half-joining", "rhel8", "no-new-mounts"], indirect=True)
def test_held_roots_are_used_where_they_can_be(hpcc: Played) -> None:
    """Without setns a run makes a mount of its own, and says nothing of it."""
    for number in range(3):
        done = hpcc("exec", images().squashfs, "sh", "-c", f"echo {number}")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{number}\n", "")
    held = [path for path in (hpcc.person.home / "node/held").iterdir() if path.suffix == ""]
    assert len(held) == 1
    hpcc.leaves_nothing()


@pytest.mark.parametrize("hpcc", ["no-overlay", "rhel8", "ramfs", "no-fuse", "bare"], indirect=True)
def test_overlays_that_stay(hpcc: Played) -> None:
    """By fuse-overlayfs where the kernel has no overlay for us; where there is neither, a copy would keep nothing."""
    overlay, image = hpcc.person.home / "changes", images().main
    hpcc.person.run(["mkdir", overlay])
    done = hpcc("exec", "--overlay", overlay, image, "sh", "-c", "echo mine > /etc/mine; rm /etc/os-release")
    if hpcc.host == "bare":
        assert done.returncode == 255 and "no way to put an --overlay over" in done.stderr, done.stderr
        assert list(overlay.iterdir()) == []
        return
    assert (done.returncode, done.stderr) == (0, ""), done
    for flags in ([f"{overlay}:ro"], [f"{overlay}:ro", "--writable-tmpfs"], [overlay]):
        script = "cat /etc/mine; ls /etc/os-release 2>/dev/null; echo x 2>/dev/null > /etc/more && echo written"
        done = hpcc("exec", "--overlay", *flags, image, "sh", "-c", script)
        assert done.stdout == "mine\n" + "written\n" * (flags != [f"{overlay}:ro"]), (flags, done)
    hpcc.leaves_nothing()


@pytest.mark.parametrize("hpcc", ["bare"], indirect=True)
def test_a_copy_that_does_not_fit_is_said_to_be_so(hpcc: Played) -> None:
    """A sandbox that is larger than the memory that a tmpfs may take."""
    sandbox = hpcc.person.home / "large"
    sandbox.mkdir()
    for name in ("dev", "proc", "sys", "tmp", "var/tmp", "etc"):
        (sandbox / name).mkdir(parents=True)
    with open(sandbox / "sparse", "wb") as file:
        file.truncate(1 << 43)
    done = hpcc("exec", "--writable-tmpfs", sandbox, "/sparse")
    assert done.returncode == 255 and "does not fit into memory" in done.stderr, done.stderr
    assert "fuse-overlayfs" in done.stderr
    hpcc.leaves_nothing()
