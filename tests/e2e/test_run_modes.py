"""--contain, --containall and --compat, and what a payload may do: one test for each promise."""

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from hpcc.cli.behind import MARK
from hpcc.runtime import _kernel as kernel
from tests.support import people
from tests.support.images import Images, images
from tests.support.installation import Installation
from tests.support.people import Person

DEV = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
MODES = {"default": (), "contain": ("--contain",), "containall": ("--containall",), "compat": ("--compat",)}
EACH_MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@pytest.fixture
def image() -> Images:
    return images()


class Sh:
    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.hpcc = person, installed.hpcc

    def __call__(self, image: Path, script: str, *flags: str, env: dict[str, str] | None = None) -> str:
        """What a script that must succeed prints."""
        done = self.person.run([self.hpcc, "exec", *flags, image, "sh", "-c", script], env=env)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture
def sh(runs_as: Person, installed: Installation) -> Sh:
    return Sh(runs_as, installed)


# -- --compat, one promise each ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["--contain", "--compat"])
def test_home_and_tmp_are_empty_and_discarded(sh: Sh, image: Images, mode: str) -> None:
    assert sh(image.main, "ls -A ~ /tmp /var/tmp | grep -v :", mode).split() == []
    places = "~ /tmp /var/tmp /dev/shm"
    sh(image.main, f"set -e; for d in {places}; do echo x > $d/hpcc-test-left; done", mode)
    assert sh(image.main, "ls -A ~ /tmp /var/tmp /dev/shm | grep -v :", mode).split() == []
    for place in ("/tmp", "/var/tmp", "/dev/shm", os.path.expanduser(f"~{sh.person.name}")):
        assert not Path(place, "hpcc-test-left").exists()


@pytest.mark.parametrize("mode", ["--contain", "--containall", "--compat"])
def test_minimal_dev(sh: Sh, image: Images, mode: str) -> None:
    wanted = set(DEV.split()) - ({"mqueue"} if mode == "--contain" else set())
    assert set(sh(image.main, "ls /dev", mode).split()) == wanted
    script = "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo y > /dev/shm/y; ls /dev/pts; head -c2 /dev/zero"
    assert sh(image.main, script, mode).split() == ["4", "ptmx", "\0\0"]


def test_full_dev_by_default(sh: Sh, image: Images) -> None:
    assert set(sh(image.main, "ls /dev").split()) >= set(os.listdir("/dev")) & {"null", "fuse", "loop-control"}


@pytest.mark.parametrize("mode", ["--containall", "--compat"])
def test_processes_and_ipc_of_its_own(sh: Sh, image: Images, mode: str) -> None:
    pids = [int(pid) for pid in sh(image.main, "ls /proc | grep '^[0-9]'; echo $$", mode).split()]
    names = sh(image.main, "cat /proc/[0-9]*/comm", mode).split()
    assert not {"fuse-overlayfs", "squashfuse_ll", "hpcc-squashfs"} & {*names}, "a daemon of ours is the payload's"
    assert max(pids) < 20
    assert (sh(image.main, "echo $$", mode).strip() == "1") == (mode == "--compat")
    for kind, same in (("pid", False), ("ipc", False), ("mnt", False), ("net", True), ("uts", True)):
        inside = sh(image.main, f"readlink /proc/self/ns/{kind}", mode).strip()
        assert (inside == os.readlink(f"/proc/self/ns/{kind}")) == same, kind


@EACH_MODE
def test_umask(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    argv = ["sh", "-c", 'umask 0077; exec "$@"', "sh", sh.hpcc, "exec", *mode, image.main, "sh", "-c", "umask"]
    assert sh.person.run(argv).stdout.strip() == ("0022" if mode == ("--compat",) else "0077")
    argv[7:7] = ["--no-umask"]
    assert sh.person.run([*argv[:6], "--no-umask", *mode, image.main, "sh", "-c", "umask"]).stdout.strip() == "0022"


def test_hosts_umask_spoils_no_mount_point(sh: Sh, image: Images) -> None:
    script = "umask 0077; exec $0 exec --compat -B /etc/os-release:/a/b/c $1 cat /a/b/c"
    done = sh.person.run(["sh", "-c", script, sh.hpcc, image.main])
    assert done.returncode == 0, done.stderr


# -- privileges --------------------------------------------------------------------------------------------------


@EACH_MODE
def test_no_privileges(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    status = dict(re.findall(r"(\w+):\t(\S+)", sh(image.main, "cat /proc/self/status", *mode)))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert sh(image.main, "id -u; id -g", *mode).split() == [str(sh.person.uid), str(sh.person.gid)]


@EACH_MODE
def test_setuid_programs_gain_nothing(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    for path in (image.main, image.squashfs):
        assert sh(path, "setuid-id -u; setuid-id -ru", *mode).split() == [str(sh.person.uid)] * 2
    mounts = [line.split() for line in sh(image.main, "cat /proc/self/mountinfo", *mode).splitlines()]
    assert {"/", "/tmp", "/var/tmp"} <= {fields[4] for fields in mounts}
    for fields in mounts:
        assert "nosuid" in fields[5]
        assert "nodev" in fields[5] or fields[4].startswith(("/dev", "/proc")), fields


@pytest.mark.parametrize("rootfs", ["fuse", "squashfuse", "unpacked"])
def test_a_setuid_program_in_a_bind_gains_nothing(sh: Sh, image: Images, rootfs: str) -> None:
    script = "cp /usr/bin/setuid-id /tmp/s && chmod 4755 /tmp/s && /tmp/s -u"
    env = {"HPCC_ROOTFS": rootfs}
    assert sh(image.main, script, "--contain", env=env).strip() == str(sh.person.uid)


@EACH_MODE
def test_mounts_are_out_of_reach(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    script = """
    busybox mount -t tmpfs none /mnt && echo mounted
    busybox umount /proc && echo unmounted
    busybox mount -o remount,rw / && echo remounted
    busybox chroot /mnt true && echo changed-root
    busybox mknod /tmp/disk b 8 0 2>/dev/null && echo made
    busybox hostname hpcc-was-here && echo renamed
    true"""
    assert sh(image.main, script, *mode) == ""


@EACH_MODE
def test_another_user_namespace_does_not_undo_it(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    """A payload may make a user namespace, where it is allowed to mount; what it was given stays read-only there."""
    script = """busybox unshare -Urm busybox sh -c '
    busybox mount -o remount,rw,bind /mnt && echo remounted
    busybox mount -o remount,suid,bind / && echo suid
    busybox umount /mnt && echo unmounted
    busybox umount /proc && echo unmounted'
    true"""
    assert sh(image.main, script, *mode, "-B", "/etc:/mnt:ro") == ""


@EACH_MODE
def test_knobs_of_the_kernel_are_out_of_reach(sh: Sh, image: Images, mode: tuple[str, ...]) -> None:
    """As root too: core_pattern and its like run programs outside of the container. Opened, never written."""
    script = """
    for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger \\
             /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/power/state; do
        [ ! -e $f ] || (: >> $f) 2>/dev/null && [ -e $f ] && echo $f
    done
    true"""
    assert sh(image.main, script, *mode) == ""


@EACH_MODE
def test_files_of_the_host_that_each_container_gets_cannot_be_written(
    sh: Sh, image: Images, mode: tuple[str, ...]
) -> None:
    script = "for f in /etc/hosts /etc/resolv.conf /etc/localtime; do (: >> $f) 2>/dev/null && echo $f; done; true"
    assert sh(image.main, script, *mode) == ""


@EACH_MODE
def test_files_of_others_cannot_be_read(
    sh: Sh, image: Images, open_dir: Path, mode: tuple[str, ...], plain_user: Person
) -> None:
    """Root in a container has no CAP_DAC_OVERRIDE: another's 0600 file stays closed."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file to another user")
    secret = open_dir / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    os.chown(secret, *((plain_user.uid, plain_user.gid) if sh.person.uid == 0 else (0, 0)))
    argv = [sh.hpcc, "exec", *mode, "-B", f"{secret}:/mnt/secret", image.main, "cat", "/mnt/secret"]
    done = sh.person.run(argv)
    assert done.returncode == 1 and done.stdout == "" and "Permission denied" in done.stderr


@pytest.mark.parametrize("mode", ["--no-umask", "--contain", "--writable-tmpfs"])
@pytest.mark.parametrize("rootfs", ["fuse", "squashfuse", "unpacked"])
def test_our_own_processes_are_no_way_out(sh: Sh, image: Images, rootfs: str, mode: str) -> None:
    """Holders and daemons have the host's root and the payload's user; /proc/<pid>/root must be closed all the same."""
    script = """
    for p in /proc/[0-9]*; do
        [ $p != /proc/$$ ] && case $(cat $p/cmdline 2>/dev/null | tr '\\0' ' ') in
            *squashfuse_ll*|*fuse-overlayfs*|*hpcc/__main__*) ;; *) false ;;
        esac || continue
        readlink $p/fd/0 $p/exe $p/cwd && echo $p/links
        ls $p/root/ >/dev/null 2>&1 && echo $p/root
        cat $p/environ >/dev/null 2>&1 && echo $p/environ
    done
    true"""
    env = {"HPCC_ROOTFS": rootfs, "HPCC_WRITABLE": "fuse-overlayfs"}
    assert sh(image.main, script, mode, env=env) == ""


# -- hosts and directories that must be refused ------------------------------------------------------------------


def test_a_squatted_node_directory_is_refused(
    runs_as: Person, installed: Installation, image: Images, open_dir: Path, plain_user: Person
) -> None:
    argv = [installed.hpcc, "exec", image.main, "true"]
    wide = open_dir / "wide"
    wide.mkdir()
    os.chown(wide, runs_as.uid, runs_as.gid) if os.geteuid() == 0 else None
    wide.chmod(0o777)
    link = open_dir / "link"
    (runs_as.home / "own").mkdir(mode=0o700)
    os.chown(runs_as.home / "own", runs_as.uid, runs_as.gid) if os.geteuid() == 0 else None
    link.symlink_to(runs_as.home / "own")
    places = [wide, link]
    if os.geteuid() == 0:
        others = open_dir / "others"
        others.mkdir()
        others.chmod(0o777)
        os.chown(others, *((plain_user.uid, plain_user.gid) if runs_as.uid == 0 else (0, 0)))
        places.append(others)
    for place in places:
        done = runs_as.run(argv, env={"HPCC_NODE_DIR": str(place)})
        assert done.returncode == 255 and "not a directory that only you can use" in done.stderr, (place, done.stderr)
        assert os.listdir(place) == []  # nothing was put into it either
    done = runs_as.run(argv, env={"HPCC_NODE_DIR": "/proc/nowhere/node"})
    assert done.returncode == 255 and "HPCC_NODE_DIR" in done.stderr


def without_user_namespaces(
    argv: list[object], open_dir: Path, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run where a host forbids them, played by a user namespace whose own limit is 0; the node directory is `node`."""
    if os.geteuid() != 0:
        pytest.skip("needs root to map users of a namespace as it likes")
    node = open_dir / "node"
    node.mkdir(mode=0o700)
    os.chown(node, 101000, 101000)
    ready, tell = os.pipe()
    go, let_go = os.pipe()

    def enter() -> None:
        kernel.unshare(kernel.CLONE_NEWUSER)
        os.write(tell, b"%d" % os.getpid())
        os.read(go, 1)
        os.setresgid(1000, 1000, 1000)
        os.setresuid(0, 0, 0)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        os.setgroups([])
        os.setresuid(1000, 1000, 1000)

    def map_users() -> None:
        pid = os.read(ready, 20).decode()
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536\n")
        os.write(let_go, b"g")

    mapper = threading.Thread(target=map_users)
    mapper.start()
    environ = people.myself(open_dir).environ({"HPCC_NODE_DIR": str(node), "HOME": "/", **(env or {})})
    done = subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, preexec_fn=enter)
    mapper.join()
    return done


def test_no_user_namespaces(installed: Installation, image: Images, open_dir: Path) -> None:
    done = without_user_namespaces([installed.hpcc, "exec", image.main, "true"], open_dir)
    assert done.returncode == 255, done.stderr
    assert "no user namespaces" in done.stderr and "user.max_user_namespaces" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((open_dir / "node").glob("host-*"))  # a limit may be lifted, so a no is not remembered


# -- the site's own Apptainer ------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(open_dir: Path) -> Path:
    """A directory with hpcc's own stand-in, and one with an `apptainer` that shows what it was given, as one PATH."""
    for name, text in (("shim", f"#!/bin/sh\n{MARK}\necho loop\n"), ("real", SHOWS)):
        (open_dir / name).mkdir()
        (open_dir / name / "apptainer").write_text(text)
        (open_dir / name / "apptainer").chmod(0o755)
    return open_dir


SHOWS = '#!/bin/sh\nprintf "[%s]" "$@"; echo; env | grep ENV_ | sort\n'


def test_backend_apptainer(runs_as: Person, installed: Installation, image: Images, stand_in: Path) -> None:
    path = f"{stand_in}/shim:{stand_in}/real:{os.environ['PATH']}"
    env = {"PATH": path, "HPCCENV_A": "x y", "SLURM_PROCID": "3"}
    argv = [
        installed.hpcc,
        "exec",
        "--backend",
        "apptainer",
        "--compat",
        "-B",
        "/etc:/mnt:ro",
        "--job-env",
        "--no-hold",
    ]
    done = runs_as.run([*argv, "--env", "B=1", image.main, "echo", "a b"], env=env)
    given = f"[exec][--bind][/etc:/mnt:ro][--env][B=1][--compat][{image.main}][echo][a b]"
    assert done.returncode == 0 and done.stdout.splitlines()[0] == given, done.stderr
    assert {"APPTAINERENV_A=x y", "APPTAINERENV_SLURM_PROCID=3"} <= set(done.stdout.splitlines())
    assert f"{stand_in}/real/apptainer" in done.stderr
    done = runs_as.run([*argv, image.main, "true"], env={"PATH": f"{stand_in}/shim:/usr/bin:/bin"})
    assert done.returncode == 255 and "no apptainer" in done.stderr and "HINT" in done.stderr
    done = runs_as.run([installed.hpcc, "exec", "--backend", "magic", image.main, "true"])
    assert done.returncode == 255 and "magic" in done.stderr


def test_backend_auto(runs_as: Person, installed: Installation, image: Images, stand_in: Path) -> None:
    """hpcc itself where it can; where it cannot, the site's Apptainer, unless that is not wanted."""
    path = {"PATH": f"{stand_in}/shim:{stand_in}/real:{os.environ['PATH']}"}
    assert runs_as.run([installed.hpcc, "exec", image.main, "echo", "mine"], env=path).stdout == "mine\n"
    if runs_as.uid == 0:
        argv = [installed.hpcc, "exec", image.main, "true"]
        done = without_user_namespaces(argv, stand_in, path)
        assert done.stdout.startswith(f"[exec][{image.main}][true]"), done.stderr
        shutil.rmtree(stand_in / "node")
        done = without_user_namespaces(argv, stand_in, {**path, "HPCC_BACKEND": "native"})
        assert done.returncode == 255 and "no user namespaces" in done.stderr


def test_wrong_settings(runs_as: Person, installed: Installation, image: Images) -> None:
    argv = [installed.hpcc, "exec", image.main, "true"]
    for name, value in (("HPCC_ROOTFS", "magic"), ("HPCC_WRITABLE", "no"), ("HPCC_HOLD_IDLE", "-1")):
        done = runs_as.run(argv, env={name: value})
        assert done.returncode == 255 and name in done.stderr and "Traceback" not in done.stderr
    done = runs_as.run(argv, env={"HPCC_ROOTFS": "kernel"})  # not for a file that just lies around
    assert done.returncode == 255 and "cannot mount" in done.stderr
    done = runs_as.run(argv, env={"HPCC_ROOTFS": "squashfuse", "HPCC_SQUASHFUSE": "/bin/false"})
    assert done.returncode not in (0, 1) and "Traceback" not in done.stderr
