"""Runs inside something: another container of hpcc's, a user namespace, a chroot, a pod, a place that is only read."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.test_run_signals import left_over
from tests.support.images import Images, images
from tests.support.installation import Installation
from tests.support.people import Person

SYSTEM = "/usr,/lib,/lib64,/bin,/var/tmp"
OWN_SYSTEM = f"--bind={','.join(path for path in SYSTEM.split(',') if os.path.exists(path))}"
"""What makes a host of a container: the interpreter and its libraries, and where hpcc and images lie."""


class Case(NamedTuple):
    flags: tuple[str, ...]
    script: str
    prints: str


CASES = {
    "default": Case((), "id -u; cat /own/gid8/old", "{uid}\nold of gid8\n"),
    "compat": Case(("--compat",), "cd /own/gid8 && echo x > new && rm gone && cat new", "x\n"),
    "bind": Case(("--bind", "/etc:/made/here"), "ls -d /made/here", "/made/here\n"),
    "fakeroot": Case(("--fakeroot",), "id -u; head -n 1 /etc/os-release", "0\nID=hpcc-demo\n"),
    "pid": Case(("--pid",), "test $$ -lt 9 && echo own; sleep 0 & wait", "own\n"),
}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Inside:
    """`hpcc exec` of each case, as a person, behind a command line that runs it somewhere else."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.hpcc, self.mark = person, str(installed.hpcc), f"mark-{time.time_ns()}-{person.uid}"
        self.env = self.passed(person.environ({"HPCC_MARK": self.mark, "HPCC_HOLD_IDLE": "0"}))

    def passed(self, environ: dict[str, str], levels: int = 2) -> dict[str, str]:
        """hpcc keeps its own variables outside of containers: with those that bring them in."""
        own = {name: value for name, value in environ.items() if name.startswith("HPCC_")}
        for level in range(levels):
            environ |= {f"{'HPCCENV_' * (level + 1)}{name}": value for name, value in own.items()}
        return environ

    def argv(self, name: str) -> list[str]:
        case = CASES[name]
        return [self.hpcc, "exec", *case.flags, str(images().main), "sh", "-c", case.script]

    def works(self, *around: str, uid: int | None = None, cases: tuple[str, ...] = tuple(CASES)) -> None:
        """Behind `around`, a command line, each of the cases gives what it gives outside, and then all is gone."""
        for name in cases:
            done = self.person.run([*around, *self.argv(name)], env=self.env, timeout=60)
            wanted = CASES[name].prints.format(uid=self.person.uid if uid is None else uid)
            assert (done.returncode, done.stdout, done.stderr) == (0, wanted, ""), (name, done)
        assert left_over(self.mark, 6.0) == {}

    def fails(self, *around: str, said: str, cases: tuple[str, ...] = tuple(CASES)) -> None:
        for name in cases:
            done = self.person.run([*around, *self.argv(name)], env=self.env, timeout=60)
            assert done.returncode == 255 and done.stdout == "", (name, done)
            assert "FATAL:" in done.stderr and "HINT:" in done.stderr and said in done.stderr, (name, done.stderr)
        assert left_over(self.mark, 6.0) == {}


@pytest.fixture
def inside(runs_as: Person, installed: Installation) -> Inside:
    return Inside(runs_as, installed)


@pytest.fixture
def image() -> Images:
    return images()


# -- containers in containers ------------------------------------------------------------------------------------------

OUTER = {
    "default": (OWN_SYSTEM,),
    "contain": ("--contain", OWN_SYSTEM),
    "compat": ("--compat", OWN_SYSTEM),
    "writable-tmpfs": ("--writable-tmpfs", OWN_SYSTEM),
    "unpacked": (OWN_SYSTEM, "--no-hold"),
}


@pytest.mark.parametrize("outer", OUTER)
def test_in_a_container_of_ours(inside: Inside, image: Images, outer: str) -> None:
    around = [inside.hpcc, "exec", *OUTER[outer], str(image.main)]
    if inside.person.uid == 0:  # root's payload has no capability, and so may not map itself
        inside.fails(*around, said="CAP_SETFCAP", cases=("default",))
    else:
        inside.works(*around)


def test_in_a_container_where_one_is_root(inside: Inside, image: Images) -> None:
    around = [inside.hpcc, "exec", "--fakeroot", OWN_SYSTEM, str(image.main)]
    if inside.person.uid != 0:
        inside.works(*around, uid=0)
        return
    # What real root must not write to is hidden there, and so a /proc of its own is not to be had.
    inside.works(*around, cases=("default", "bind", "fakeroot"))
    inside.fails(*around, said="cannot have its /proc", cases=("pid",))


def test_in_the_hosts_own_root_as_a_container(inside: Inside) -> None:
    """A directory is an image, and / is a directory."""
    around = [inside.hpcc, "exec", "/"]
    inside.works(*around) if inside.person.uid else inside.fails(*around, said="CAP_SETFCAP", cases=("default",))


def test_three_deep(inside: Inside, image: Images) -> None:
    if inside.person.uid == 0:
        around = [inside.hpcc, "exec", "--fakeroot", "--no-mount", "proc", OWN_SYSTEM, "-B/proc", str(image.main)]
        inside.works(*around, *around, cases=("default", "fakeroot"))
    else:
        around = [inside.hpcc, "exec", OWN_SYSTEM, str(image.main)]
        inside.works(*around, *around)


def test_a_held_root_is_not_shared_with_who_is_inside(inside: Inside, image: Images) -> None:
    """Who sees other mounts, or is in another user namespace, must not join."""
    around = [inside.hpcc, "exec", OWN_SYSTEM, str(image.main)] if inside.person.uid else ["unshare", "-m"]
    for where in ([], around, []):
        env = inside.passed({**inside.env, "HPCC_HOLD_IDLE": "5"})
        done = inside.person.run([*where, *inside.argv("default")], env=env)
        assert done.stdout == CASES["default"].prints.format(uid=inside.person.uid), done
    assert left_over(inside.mark, 10.0) == {}


# -- namespaces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [("-Ur",), ("-Urm",), ("-Urmpf", "--mount-proc"), ("-Urmn",)], ids=" ".join)
def test_as_root_of_a_user_namespace(inside: Inside, flags: tuple[str, ...]) -> None:
    inside.works("unshare", *flags, uid=0)


def test_in_a_user_namespace_without_ids(inside: Inside) -> None:
    inside.fails("unshare", "-U", said="without ids", cases=("default", "fakeroot"))


def test_where_parts_of_proc_are_hidden(inside: Inside, image: Images) -> None:
    """As in Docker and Kubernetes: a mode that has a PID namespace goes without it, and says so."""
    hide = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec unshare -Ur "$@"'
    around = ["unshare", "-Urm", "sh", "-c", hide, "sh"]
    inside.works(*around, uid=0, cases=("default", "bind", "fakeroot"))
    inside.fails(*around, said="systempaths=unconfined", cases=("pid",))
    for flags in (("--compat",), ("--containall",), ("--containall", "--no-init"), ("--compat", "--fakeroot")):
        script = "readlink /proc/self/ns/pid /proc/self/ns/ipc; echo x > ~/new; ls ~"
        argv = [*around, inside.hpcc, "exec", *flags, str(image.main), "sh", "-c", script]
        done = inside.person.run(argv, env=inside.env)
        pid, ipc, new = done.stdout.split()
        assert pid == os.readlink("/proc/self/ns/pid") and ipc != os.readlink("/proc/self/ns/ipc") and new == "new"
        assert done.returncode == 0 and done.stderr.startswith("WARNING: no PID namespace"), done
    argv = [*around, inside.hpcc, "instance", "start", str(image.main), "one"]
    done = inside.person.run(argv, env=inside.env)
    assert done.returncode == 255 and "cannot have its /proc" in done.stderr, done
    assert left_over(inside.mark, 6.0) == {}


# -- other roots: each in a mount namespace of its own, which needs root to make ---------------------------------------

BECOME = "exec setpriv --reuid $uid --regid $gid --init-groups --inh-caps=-all -- "
NOBODYS = "unset XDG_CONFIG_HOME; exec setpriv --reuid 4242 --regid 4243 --clear-groups --inh-caps=-all -- "
SMALL_ROOT = """
mkdir -p $top/usr $top/proc $top/dev $top/var/tmp $top/tmp $top/etc $top/old
cd $top
for name in bin sbin lib lib64; do ln -sfn usr/$name $name; done
mount --bind /usr usr; mount -t proc proc proc; mount --rbind /var/tmp var/tmp
cp /etc/passwd /etc/group etc/
for name in null zero urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done
"""
ROOTS = {
    "pod": f'mount -t tmpfs none $top; {SMALL_ROOT} pivot_root . old; umount -l old; cd /; {BECOME} "$@"',
    "only-read-tmp": f'mount -t tmpfs -o ro none /tmp; {BECOME} "$@"',
    "only-read-home": f'mount --bind $HOME $HOME; mount -o remount,bind,ro $HOME; {BECOME} "$@"',
    "no-HOME": f'unset HOME; {BECOME} "$@"',
    "HOME-that-is-not-there": f'export HOME=/no/such/home; {BECOME} "$@"',
    "no-variables": f'{BECOME} env -i HPCC_NODE_DIR=$HPCC_NODE_DIR HPCC_MARK=$HPCC_MARK HPCC_HOLD_IDLE=0 "$@"',
    "no-sys": f'umount -l /sys; {BECOME} "$@"',
    "no-name": f'export HOME=$top; {NOBODYS} "$@"',
    "no-name-and-no-HOME": f'unset HOME USER LOGNAME; {NOBODYS} "$@"',
}


def elsewhere(inside: Inside, place: Path, script: str, name: str) -> "subprocess.CompletedProcess[str]":
    """A case in another root, which `script` makes at `place`; what is mounted there goes with it."""
    person = inside.person
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", *inside.argv(name)]
    own = {"top": str(place / "top"), "uid": str(person.uid), "gid": str(person.gid)}
    node = place / "node"
    env = {**person.environ({"HPCC_MARK": inside.mark, "HPCC_HOLD_IDLE": "0", "HPCC_NODE_DIR": str(node)}), **own}
    return subprocess.run(
        argv, env=env, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.root
@pytest.mark.parametrize("where", ROOTS)
def test_in_another_root(inside: Inside, open_dir: Path, where: str) -> None:
    uid = 4242 if where.startswith("no-name") else inside.person.uid
    for name in ("top", "node"):
        (open_dir / name).mkdir(mode=0o755 if name == "top" else 0o700)
        os.chown(open_dir / name, uid, -1)
    for name, case in CASES.items():
        done = elsewhere(inside, open_dir, ROOTS[where], name)
        assert (done.returncode, done.stdout, done.stderr) == (0, case.prints.format(uid=uid), ""), (name, done)
    assert left_over(inside.mark, 6.0) == {}


@pytest.mark.root
def test_in_a_chroot(inside: Inside, open_dir: Path) -> None:
    """The kernel gives no user namespace there; to root it gives mounts, but / is no mount that could be changed."""
    (open_dir / "top").mkdir()
    (open_dir / "node").mkdir(mode=0o700)
    os.chown(open_dir / "node", inside.person.uid, -1)
    for name in CASES:
        script = f'{SMALL_ROOT} exec chroot --userspec=$uid:$gid $top "$@"'
        done = elsewhere(inside, open_dir, script, name)
        assert done.returncode == 255 and "this runs in a chroot" in done.stderr and "HINT:" in done.stderr, done
    assert left_over(inside.mark, 6.0) == {}


@pytest.mark.root
def test_without_proc(inside: Inside, open_dir: Path) -> None:
    (open_dir / "node").mkdir(mode=0o700)
    os.chown(open_dir / "node", inside.person.uid, -1)
    done = elsewhere(inside, open_dir, f'umount -l /proc; {BECOME} "$@"', "default")
    assert done.returncode == 255 and "/proc is not mounted" in done.stderr, done


@pytest.mark.root
def test_a_node_directory_that_is_only_read(inside: Inside, open_dir: Path) -> None:
    """What is there is used, and nothing is kept; where it is not there, another must be named."""
    node = open_dir / "node"
    freeze = f'mount --bind $top/.. $top/..; mount -o remount,bind,ro $top/..; {BECOME} "$@"'
    (open_dir / "top").mkdir()
    done = elsewhere(inside, open_dir, freeze, "default")
    assert done.returncode == 255 and f"cannot make {node}" in done.stderr and "HPCC_NODE_DIR" in done.stderr, done
    for path in (node, node / "stage", node / "held", node / "unpacked-v1"):
        path.mkdir(mode=0o700)
        os.chown(path, inside.person.uid, -1)
    for name, case in CASES.items():
        done = elsewhere(inside, open_dir, freeze, name)
        wanted = case.prints.format(uid=inside.person.uid)
        assert (done.returncode, done.stdout, done.stderr) == (0, wanted, ""), (name, done)
    assert sorted(path.name for path in node.rglob("*")) == ["held", "stage", "unpacked-v1"]
    assert left_over(inside.mark, 6.0) == {}
