"""Filesystems in files: as overlays, as bind sources, and as the partition of a SIF that --writable writes to."""

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.filesystems import (
    edit_ext,
    given,
    is_clean,
    make_ext,
    make_squashfs,
    tree,
)
from tests.support.images import Images, images
from tests.support.people import Person

BUSY = 75


@pytest.fixture
def home(hpcc: Hpcc) -> Path:  # noqa: F811
    return hpcc.person.home


def overlay(hpcc: Hpcc, name: str = "o.img", *flags: str) -> Path:  # noqa: F811
    """A new ext3 overlay of the person's."""
    done = hpcc("overlay", "create", *flags, name)
    assert done.returncode == 0, done.stderr
    return hpcc.person.home / name


def writable_sif(hpcc: Hpcc, name: str = "w.sif") -> Path:  # noqa: F811
    """The main image with an overlay partition, as the person's own."""
    path = given(Path(shutil.copy(images().main, hpcc.person.home / name)), hpcc.person, 0o755)
    done = hpcc("overlay", "create", path)
    assert done.returncode == 0, done.stderr
    return path


class Holding:
    """A run that keeps what it uses until it is told to go on."""

    def __init__(self, hpcc: Hpcc, *argv: object, script: str = "true") -> None:  # noqa: F811
        self.mark = uuid.uuid4().hex
        words = [
            str(hpcc.installed.hpcc),
            "exec",
            *map(str, argv),
            "sh",
            "-c",
            f"{script}; echo ready; read go; {script}",
        ]
        self.process = hpcc.person.popen(
            words, env={"APPTAINERENV_MARK": self.mark}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def end(self) -> int:
        self.process.communicate("go\n", timeout=60)
        return self.process.returncode

    def __enter__(self) -> "Holding":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()


# -- overlays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",), ("--no-hold",)], ids=str)
def test_an_ext3_overlay_stays(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:  # noqa: F811
    path = overlay(hpcc)
    script = """echo new > /etc/new; rm /own/uid0/gone; rm -r /usr/local/bin; mkdir /usr/local/bin; mkdir -p /opt/a/b
        mv /own/uid0/moved /own/uid0/away; ln -s away /own/uid0/soft; ln /own/uid0/old /own/uid0/hard
        chmod 600 /etc/new"""
    assert hpcc.out(image.main, script, "--overlay", path, *mode) == ""
    assert is_clean(path)  # at the moment when it returns
    script = """cat /etc/new; ls /own/uid0 /usr/local/bin; ls -d /opt/a/b; cat /own/uid0/soft
        stat -c '%a %h' /etc/new /own/uid0/hard"""
    expected = "new\n/own/uid0:\naway\nhard\nold\nsoft\n\n/usr/local/bin:\n/opt/a/b\nmoved of uid0\n600 1\n664 2\n"
    assert hpcc.out(image.main, script, "--overlay", path, *mode) == expected
    if "--compat" not in mode:
        done = hpcc.sh(image.main, f"{script}; echo x > /etc/other", "--overlay", f"{path}:ro", *mode)
        assert done.returncode != 0 and done.stdout == expected and "ead-only" in done.stderr
    assert hpcc.sh(image.main, "test -e /etc/new").returncode == 1  # the image is as it was


def test_ext4_and_ext2_too(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    for kind in ("ext4", "ext2"):
        path = make_ext(
            home / f"{kind}.img", {"upper/srv/which": f"{kind}\n", "work/.keep": ""}, hpcc.person, kind=kind
        )
        assert hpcc.out(image.main, "cat /srv/which; echo x > /srv/x", "--overlay", path) == f"{kind}\n"
        assert hpcc.out(image.main, "cat /srv/x", "--overlay", f"{path}:ro") == "x\n" and is_clean(path)


def test_the_order_of_layers(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    """Directories, squashfs and ext3 mixed: the later is on top, and what is written to above all of them."""
    one = make_squashfs(home / "one.sqfs", {"srv/which": "one\n", "srv/one": "", "etc/motd": "one\n"}, hpcc.person)
    two = make_squashfs(home / "two.sqfs", {"srv/which": "two\n", "srv/two": ""}, hpcc.person)
    ext = make_ext(home / "ext.img", {"upper/srv/which": "ext\n", "upper/srv/ext": "", "work/.k": ""}, hpcc.person)
    directory = home / "dir"
    tree(directory, {"upper/srv/which": "dir\n", "upper/srv/dir": ""})
    for path in (directory, *directory.rglob("*")):
        os.chown(path, hpcc.person.uid, hpcc.person.gid)

    def which(*texts: str) -> list[str]:
        flags = [word for text in texts for word in ("--overlay", text)]
        return hpcc.out(image.main, "cat /srv/which; cd /srv; echo *", *flags).split()

    assert which(f"{one}:ro") == ["one", "one", "which"]
    assert which(f"{one}:ro", f"{two}:ro") == ["two", "one", "two", "which"]
    assert which(f"{two}:ro,{one}:ro") == ["one", "one", "two", "which"]
    assert which(f"{one}:ro", f"{ext}:ro", f"{directory}:ro") == ["dir", "dir", "ext", "one", "which"]
    assert which(f"{directory}:ro", f"{ext}:ro", f"{two}:ro") == ["two", "dir", "ext", "two", "which"]
    assert which(str(ext), f"{one}:ro", f"{directory}:ro") == ["ext", "dir", "ext", "one", "which"]
    assert which(str(directory), f"{ext}:ro", f"{two}:ro") == ["dir", "dir", "ext", "two", "which"]
    assert is_clean(ext) and hpcc.out(image.main, "cat /etc/motd", "--overlay", f"{one}:ro") == "one\n"


def test_a_squashfs_is_only_read(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = make_squashfs(home / "a b.sqfs", {"srv/which": "squashfs\n"}, hpcc.person)
    done = hpcc.sh(image.main, "cat /srv/which; echo x > /srv/x", "--overlay", path)
    assert done.returncode != 0 and done.stdout == "squashfs\n" and "ead-only" in done.stderr
    assert "WARNING" in done.stderr and "only read" in done.stderr
    for flags in (("--overlay", f"{path}:ro"), ("--quiet", "--overlay", path)):
        assert "WARNING" not in hpcc.sh(image.main, "true", *flags).stderr
    script = "echo x >> /srv/which; cat /srv/which"
    assert hpcc.out(image.main, script, "--overlay", path, "--writable-tmpfs") == "squashfs\nx\n"
    assert hpcc.out(image.main, script, "--overlay", f"{path}:ro", "--compat") == "squashfs\nx\n"


def test_an_ext3_below_a_root_that_is_discarded(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    hpcc.out(image.main, "echo kept > /etc/kept; rm /own/uid0/gone", "--overlay", path)
    before = path.read_bytes()
    script = "cat /etc/kept; ls /own/uid0; echo x > /etc/x; echo y >> /etc/kept; rm /own/uid0/old"
    for _ in range(2):
        out = hpcc.out(image.main, script, "--overlay", f"{path}:ro", "--writable-tmpfs")
        assert out == "kept\nmoved\nold\n"
    assert path.read_bytes() == before


def test_over_a_sandbox_and_a_plain_squashfs(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    for number, root in enumerate((image.sandbox, image.squashfs)):
        path = overlay(hpcc, f"{number}.img")
        hpcc.out(root, "echo over > /etc/over", "--overlay", path)
        assert hpcc.out(root, "cat /etc/over", "--overlay", path) == "over\n" and is_clean(path)


def test_fakeroot(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc, "f.img", "--fakeroot")
    script = "id -u; echo r > /etc/r; touch /opt/x && chown 7:8 /opt/x; stat -c %u:%g /etc/r /opt/x /own/gid8"
    assert hpcc.out(image.main, script, "-f", "--overlay", path) == "0\n0:0\n7:8\n0:8\n"
    assert hpcc.out(image.main, "stat -c %u:%g /opt/x", "-f", "--overlay", f"{path}:ro") == "7:8\n" and is_clean(path)


def test_owners_are_roots_for_root(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """As its other writable roots: who is root sees and keeps the image's owners, a user is the owner of all."""
    me = "0" if hpcc.person.uid == 0 else str(hpcc.person.uid)
    others = "0:8 0:50" if hpcc.person.uid == 0 else f"{me}:{hpcc.person.gid} {me}:{hpcc.person.gid}"
    script = (
        "touch /etc/mine; touch /own/uid0/old; stat -c %u /etc/mine /own/uid0/old; stat -c %u:%g /own/gid8 /own/gid50"
    )
    assert hpcc.out(image.main, script, "--overlay", overlay(hpcc)).split() == [me, me, *others.split()]


def test_what_excludes_what(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    one, two = overlay(hpcc, "one.img"), overlay(hpcc, "two.img")
    (home / "dir").mkdir()
    os.chown(home / "dir", hpcc.person.uid, hpcc.person.gid)
    for flags, said in (
        (("--overlay", one, "--overlay", two), "two.img:ro"),
        (("--overlay", one, "--overlay", home / "dir"), "dir:ro"),
        (("--overlay", one, "--writable-tmpfs"), "exclude"),
        (("--writable", "--overlay", one), "exclude"),
        (("--writable", "--overlay", f"{one}:ro"), "exclude"),
    ):
        done = hpcc("exec", *flags, image.main, "true")
        assert done.returncode == 255 and said in done.stderr and "HINT" in done.stderr, (flags, done.stderr)


# -- what is no overlay ------------------------------------------------------------------------------------------------


def test_files_that_are_no_filesystem(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    good = overlay(hpcc).read_bytes()
    squashfs = make_squashfs(home / "s.sqfs", {"file": os.urandom(5000).hex()}, hpcc.person).read_bytes()
    (home / "directory").mkdir()
    for name, content, said in (
        ("empty", b"", "no filesystem"),
        ("text", b"hello\n" * 1000, "no filesystem"),
        ("short", good[:1500], "no filesystem"),
        ("half", good[: len(good) // 2], "cut short"),
        ("half-squashfs", squashfs[:2000], "cut short"),
        ("zeros", bytes(1 << 20), "no filesystem"),
        ("half.sif", image.main.read_bytes()[:40000], "half.sif"),
    ):
        (home / name).write_bytes(content)
        for flags in (("--overlay", name), ("--overlay", f"{name}:ro"), ("-B", f"{name}:/mnt:image-src=/")):
            done = hpcc("exec", *flags, image.main, "true")
            assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, (
                name,
                done.stderr,
            )
    os.mkfifo(home / "fifo")
    for name, said in (
        ("/dev/null", "neither"),
        ("fifo", "neither"),
        ("missing", "No such"),
        ("empty/x", "Not a directory"),
    ):
        for flags in (("--overlay", name), ("-B", f"{name}:/mnt:image-src=/")):
            done = hpcc("exec", *flags, image.main, "true", timeout=60)
            assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, (
                name,
                done.stderr,
            )
    done = hpcc("exec", "-B", "directory:/mnt:image-src=/", image.main, "true")
    assert done.returncode == 255 and "a directory is no image" in done.stderr
    done = hpcc("exec", "--overlay", image.main, image.main, "true")
    assert done.returncode == 255 and "no overlay partition" in done.stderr and "hpcc overlay create" in done.stderr


def test_a_damaged_ext3_is_said_to_be_that(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    good = path.read_bytes()
    edit_ext(path, "set_super_value state 2")  # it has errors, the kernel said
    read = (("--overlay", f"{path}:ro"), ("-B", f"{path}:/mnt:image-src=/,ro"))
    for flags in read:
        done = hpcc("exec", *flags, image.main, "true", timeout=60)
        assert done.returncode == 255 and "fuse2fs does not mount it: " in done.stderr and "e2fsck" in done.stderr
        assert str(path) in done.stderr and "/proc/self" not in done.stderr
    path.write_bytes(good[:2048] + b"\xff" * 6144 + good[8192:])  # the table of block groups
    for flags in (*read, ("--overlay", path), ("-B", f"{path}:/mnt:image-src=/")):
        done = hpcc("exec", *flags, image.main, "sh", "-c", "ls -l /mnt/upper && echo x > /etc/x", timeout=60)
        assert done.returncode != 0 and "Traceback" not in done.stderr, done
        if "--overlay" in flags:
            assert done.returncode == 255 and "e2fsck" in done.stderr, done


def test_files_without_permission(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    hpcc.out(image.main, "echo kept > /etc/kept", "--overlay", path)
    given(path, hpcc.person, 0o400)
    if hpcc.person.uid == 0:
        assert hpcc.out(image.main, "cat /etc/kept; echo x > /etc/x", "--overlay", path) == "kept\n"
        return
    done = hpcc.sh(image.main, "cat /etc/kept; echo x > /etc/x", "--overlay", path)
    assert done.stdout == "kept\n" and "ead-only" in done.stderr and "not yours to write" in done.stderr
    script = "cat /mnt/upper/etc/kept; echo x > /mnt/x"
    done = hpcc.sh(image.main, script, "-B", f"{path}:/mnt:image-src=/")
    assert done.stdout == "kept\n" and "ead-only" in done.stderr
    path.chmod(0o000)
    for flags in (("--overlay", path), ("--overlay", f"{path}:ro"), ("-B", f"{path}:/mnt:image-src=/")):
        done = hpcc("exec", *flags, image.main, "true")
        assert done.returncode == 255 and "Permission denied" in done.stderr and str(path) in done.stderr


def test_an_overlay_of_somebody_else(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    """What belongs to ids that the caller's namespace does not have cannot be written to."""
    other = Person("other", 4321, 4321, home)
    path = make_ext(home / "other.img", {"upper/srv/which": "theirs\n", "work/.k": ""}, other)
    given(path, hpcc.person)
    assert hpcc.out(image.main, "cat /srv/which", "--overlay", f"{path}:ro") == "theirs\n"
    done = hpcc.sh(image.main, "echo x > /srv/x", "--overlay", path)
    assert done.returncode != 0 and "ermission denied" in done.stderr
    if hpcc.person.uid != 0:
        assert done.returncode == 255 and "upper/" in done.stderr and "overlay create" in done.stderr


@pytest.mark.parametrize("name", ["upper", "work"])
def test_an_upper_that_leads_out(hpcc: Hpcc, image: Images, home: Path, name: str) -> None:  # noqa: F811
    """An image is hostile: what it calls upper/ may be a link to anywhere on the host."""
    target = home / "target"
    target.mkdir()
    os.chown(target, hpcc.person.uid, hpcc.person.gid)
    files = {"upper/.k": "", "work/.k": ""}
    del files[f"{name}/.k"]
    path = make_ext(home / "evil.img", {**files, name: f"-> {target}"}, hpcc.person)
    done = hpcc.sh(image.main, "echo x > /etc/x", "--overlay", path)
    assert done.returncode == 255 and "no directory" in done.stderr and list(target.iterdir()) == []
    if name == "upper":
        done = hpcc("exec", "--overlay", f"{path}:ro", image.main, "true")
        assert done.returncode == 255 and "no directory" in done.stderr


def test_a_missing_program_is_named(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = overlay(hpcc)
    squashfs = make_squashfs(home / "s.sqfs", {"file": "x"}, hpcc.person)
    programs = home / "bin"
    programs.mkdir()
    for flags, there, said in (
        (("--overlay", path), ("fuse-overlayfs",), "fuse2fs"),
        (("--overlay", path), ("fuse2fs",), "fuse-overlayfs"),
        (("--overlay", f"{squashfs}:ro"), (), ""),
        (("-B", f"{squashfs}:/mnt:image-src=/"), (), ""),
    ):
        for each in programs.iterdir():
            each.unlink()
        for each in there:
            (programs / each).symlink_to(f"/usr/bin/{each}")
        for each in ("sh", "dirname", "readlink", "realpath", "env"):
            (programs / each).symlink_to(shutil.which(each) or "/usr/bin/env")
        done = hpcc("exec", *flags, image.main, "true", env={"PATH": str(programs)})
        if said:
            assert done.returncode == 255 and said in done.stderr and "HINT" in done.stderr, (there, done.stderr)
        else:  # a squashfs needs none
            assert done.returncode == 0, done.stderr
    assert is_clean(path)


# -- one writes, or several read ---------------------------------------------------------------------------------------


def test_who_writes_is_alone(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = overlay(hpcc)
    hpcc.out(image.main, "echo kept > /etc/kept", "--overlay", path)
    bound = f"{path}:/mnt:image-src=/"
    with Holding(hpcc, "--overlay", path, image.main, script="echo x > /etc/held"):
        for flags in (("--overlay", path), ("--overlay", f"{path}:ro"), ("-B", bound), ("-B", f"{bound},ro")):
            started = time.monotonic()
            done = hpcc("exec", *flags, image.main, "true")
            assert done.returncode == BUSY and "in use" in done.stderr and str(path) in done.stderr, (flags, done)
            assert time.monotonic() - started < 20  # refused, not queued
    with Holding(hpcc, "--overlay", f"{path}:ro", image.main), Holding(hpcc, "-B", f"{bound},ro", image.main):
        assert hpcc.out(image.main, "cat /etc/kept /etc/held", "--overlay", f"{path}:ro") == "kept\nx\n"
        assert hpcc("exec", "--overlay", path, image.main, "true").returncode == BUSY
    assert hpcc.out(image.main, "cat /etc/kept", "--overlay", path) == "kept\n" and is_clean(path)


def test_many_at_once(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """However many begin at once, the image is sound, and who was let in has written."""
    path = overlay(hpcc)
    argv = [str(hpcc.installed.hpcc), "exec", "--overlay", str(path), str(image.main), "sh", "-c"]
    running = [hpcc.person.popen([*argv, f"echo {n} > /opt/{n}"], stderr=subprocess.DEVNULL) for n in range(6)]
    statuses = [process.wait(timeout=120) for process in running]
    assert set(statuses) <= {0, BUSY} and 0 in statuses and is_clean(path)
    there = hpcc.out(image.main, "cd /opt; cat *", "--overlay", f"{path}:ro").split()
    assert sorted(there) == [str(number) for number, status in enumerate(statuses) if status == 0]


# -- a SIF with an overlay partition -----------------------------------------------------------------------------------


def test_writable_sif(hpcc: Hpcc) -> None:  # noqa: F811
    sif = writable_sif(hpcc)
    done = hpcc.sh(sif, "echo x > /etc/x")
    assert done.returncode != 0 and "ead-only" in done.stderr
    assert hpcc.out(sif, "echo x > /etc/x; rm /own/uid0/gone; cat /etc/x", "--writable") == "x\n"
    assert is_clean(sif, partition(sif))
    for flags in ((), ("--containall",), ("-w",)):
        assert hpcc.out(sif, "cat /etc/x; ls /own/uid0", *flags) == "x\nmoved\nold\n"
    assert hpcc.out(sif, "echo y >> /etc/x; cat /etc/x", "--writable-tmpfs") == "x\ny\n"
    assert hpcc.out(sif, "echo y >> /etc/x; cat /etc/x", "--compat") == "x\ny\n"
    assert hpcc.out(sif, "cat /etc/x") == "x\n"
    assert hpcc("sif", "list", sif).stdout.count("Ext3/Overlay") == 1


def partition(sif: Path) -> int:
    """Where its overlay partition begins."""
    from hpcc.sif.load import load

    data = sif.read_bytes()
    (found,) = load(lambda at, length: data[at : at + length], len(data)).overlays()
    return found.offset


def test_one_writes_to_a_sif(hpcc: Hpcc) -> None:  # noqa: F811
    sif = writable_sif(hpcc)
    with Holding(hpcc, "--writable", sif, script="echo x > /etc/x"):
        for flags in (("--writable",), ()):
            done = hpcc("exec", *flags, sif, "true")
            assert done.returncode == BUSY and "in use" in done.stderr, done.stderr
        done = hpcc("sif", "add", "--datatype", "7", sif, "/etc/hosts")  # would replace the file under its hands
        assert done.returncode == BUSY and "a run writes to" in done.stderr
    with Holding(hpcc, sif):
        assert hpcc.out(sif, "cat /etc/x") == "x\n"
        assert hpcc("exec", "--writable", sif, "true").returncode == BUSY
    assert hpcc("sif", "add", "--datatype", "7", sif, "/etc/hosts").returncode == 0
    assert hpcc.out(sif, "cat /etc/x", "--writable") == "x\n"


def test_overlays_over_that_of_a_sif(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    sif, path = writable_sif(hpcc), overlay(hpcc)
    hpcc.out(sif, "echo sif > /srv/which; echo sif > /srv/sif", "--writable")
    hpcc.out(image.main, "echo img > /srv/which; echo img > /srv/img", "--overlay", path)
    assert hpcc.out(sif, "cat /srv/which; cd /srv; echo *", "--overlay", f"{path}:ro") == "img\nimg sif which\n"
    assert hpcc.out(sif, "cat /srv/which; echo n > /srv/new", "--overlay", path) == "img\n"
    assert hpcc.out(sif, "cat /srv/which; test -e /srv/new || echo none") == "sif\nnone\n"
    # and a SIF may lend its partition to another image
    assert hpcc.out(image.main, "cat /srv/which", "--overlay", f"{sif}:ro") == "sif\n"
    assert hpcc.out(image.main, "echo lent > /srv/which", "--overlay", sif) == ""
    assert hpcc.out(sif, "cat /srv/which") == "lent\n"


def test_several_overlay_partitions(hpcc: Hpcc, home: Path) -> None:  # noqa: F811
    sif = given(Path(shutil.copy(images().main, home / "several.sif")), hpcc.person, 0o755)
    add = ("sif", "add", "--datatype", "4", "--parttype", "4", "--partarch", "2", "--groupid", "1")
    for name in ("one", "two"):
        path = make_squashfs(home / f"{name}.sqfs", {"srv/which": f"{name}\n", f"srv/{name}": ""}, hpcc.person)
        assert hpcc(*add, "--partfs", "1", sif, path).returncode == 0
    assert hpcc.out(sif, "cat /srv/which; cd /srv; echo *") == "two\none two which\n"
    done = hpcc("exec", "--writable", sif, "true")
    assert done.returncode == 255 and "no overlay partition to write to" in done.stderr
    assert hpcc("overlay", "create", sif).returncode == 0
    assert hpcc.out(sif, "cat /srv/which; echo mine > /srv/which", "--writable") == "two\n"
    assert hpcc.out(sif, "cat /srv/which; cd /srv; echo *") == "mine\none two which\n"


def test_writable_where_that_cannot_be(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    done = hpcc("exec", "--writable", image.main, "true")
    assert done.returncode == 255 and "hpcc overlay create" in done.stderr and "--overlay" in done.stderr
    if hpcc.person.uid != 0:
        sif = writable_sif(hpcc)
        sif.chmod(0o555)
        done = hpcc("exec", "--writable", sif, "true")
        assert done.returncode == 255 and "not yours to write" in done.stderr
        assert hpcc.out(sif, "echo on") == "on\n"
