"""Writable roots: what may be done in directories of whom, by each way in which this host can make one."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.images import copy_of, images
from tests.support.installation import Installation
from tests.support.people import Person

CHANGES = """
set -e
cd /own/$1
echo created > new
test "$(cat new)" = created
echo appended >> old
test "$(cat old)" = "old of $1
appended"
rm gone
test ! -e gone
mv moved elsewhere
test "$(cat elsewhere)" = "moved of $1"
mkdir -p sub/dir
echo in > sub/dir/file
mv sub other
ln old linked
ln -s old soft
chmod 600 old
rm -r other
echo > gone
ls
"""
AFTERWARDS = ["elsewhere", "gone", "linked", "new", "old", "soft"]
PLACES = ("uid0", "gid8", "gid50")


class Way(NamedTuple):
    """A rung, forced by settings. `image`: which of the images; `who`: for whom it exists."""

    rootfs: str
    writable: str
    image: str = "main"
    who: tuple[str, ...] = ("root", "user")


WAYS = {
    "auto": Way("auto", "auto"),
    "fuse-overlay": Way("fuse", "overlay"),
    "fuse-fuse": Way("fuse", "fuse-overlayfs"),
    "squashfuse-fuse": Way("squashfuse", "fuse-overlayfs"),
    "squashfuse-overlay": Way("squashfuse", "overlay", who=("root",)),
    "unpacked-overlay": Way("unpacked", "overlay"),
    "unpacked-fuse": Way("unpacked", "fuse-overlayfs"),
    "unpacked": Way("auto", "unpacked"),
    "copy": Way("auto", "copy"),
    "copy-rooted": Way("squashfuse", "copy", "rooted", ()),
    "nested": Way("squashfuse", "nested", "rooted", ("user",)),
    "sandbox": Way("auto", "auto", "sandbox"),
    "squashfs": Way("auto", "auto", "squashfs"),
}


def environ(way: Way) -> dict[str, str]:
    return {"HPCC_ROOTFS": way.rootfs, "HPCC_WRITABLE": way.writable}


@pytest.mark.parametrize("mode", ["--compat", "--writable-tmpfs"])
@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.image != "sandbox"])
def test_change_everything(runs_as: Person, installed: Installation, name: str, mode: str) -> None:
    way = WAYS[name]
    who = "root" if runs_as.uid == 0 else "user"
    path = getattr(images(), way.image)
    for place in PLACES:
        argv = [installed.hpcc, "exec", mode, path, "sh", "-c", CHANGES, "sh", place]
        done = runs_as.run(argv, env=environ(way))
        if who not in way.who:
            assert done.returncode == 255 and "writable" in done.stderr, done
            continue
        assert done.returncode == 0, (place, done.stderr)
        assert done.stdout.split() == AFTERWARDS
        # Nothing persists, and no copy that a later run uses was changed.
        again = runs_as.run([installed.hpcc, "exec", path, "ls", f"/own/{place}"], env=environ(way))
        assert again.stdout.split() == ["gone", "moved", "old"], again


@pytest.mark.parametrize("mode", ["--compat", "--writable-tmpfs"])
def test_the_root_directory_and_system_files(runs_as: Person, installed: Installation, mode: str) -> None:
    script = (
        "echo x > /new && echo y >> /etc/passwd.new && rm /etc/os-release && mv /etc/nsswitch.conf /etc/n && ls /new"
    )
    done = runs_as.run([installed.hpcc, "exec", mode, images().main, "sh", "-c", script])
    assert done.returncode == 0 and done.stdout == "/new\n", done.stderr


def test_a_sandbox_is_not_changed(runs_as: Person, installed: Installation) -> None:
    sandbox = images().sandbox
    script = "echo x > /new; rm /bin/ls; echo y > /.singularity.d/runscript; test -e /new"
    done = runs_as.run([installed.hpcc, "exec", "--writable-tmpfs", sandbox, "/bin/sh", "-c", script])
    assert not (sandbox / "new").exists() and (sandbox / "bin/ls").is_symlink()
    assert "runscript" in (sandbox / ".singularity.d/runscript").read_text()
    if runs_as.uid == 0:
        assert done.returncode == 0, done.stderr


def test_unpacked_copy_is_made_once_and_is_private(runs_as: Person, installed: Installation) -> None:
    env = {"HPCC_ROOTFS": "unpacked"}
    argv = [
        str(installed.hpcc),
        "exec",
        str(images().main),
        "sh",
        "-c",
        "stat -c %i /etc/os-release; stat -c %a /private",
    ]
    several = [runs_as.popen(argv, env=env, stdout=-1, text=True) for _ in range(4)]
    answers = {process.communicate(timeout=120)[0] for process in several}
    assert len(answers) == 1 and answers.pop().endswith("600\n")
    store = runs_as.home / "node/unpacked-v1"
    copies = [path for path in store.iterdir() if path.is_dir()]
    assert len(copies) == 1 and copies[0].suffix != ".partial"
    assert os.stat(runs_as.home / "node").st_mode & 0o077 == 0
    (copy,) = copies
    mode = os.stat(copy / "usr/bin/setuid-id").st_mode
    assert runs_as.uid == 0 or not mode & 0o6000  # no set-user-id program of the user's own on the disk


def test_a_hostile_key_names_no_path(runs_as: Person, installed: Installation, open_dir: Path) -> None:
    """The mark in a SIF is whatever its maker wrote: it must not choose where a copy is unpacked to."""
    data = images().distroless.read_bytes()
    at = data.index(b'"key":"') + len(b'"key":"')
    evil = f"../../../..{open_dir}/out".encode()
    evil += b"/" * (64 - len(evil))
    assert len(evil) == 64
    sif = open_dir / "evil.sif"
    sif.write_bytes(data[:at] + evil + data[at + 64 :])
    target = open_dir / "drop"
    target.mkdir(mode=0o777)
    done = runs_as.run([installed.hpcc, "exec", sif, "/busybox", "true"], env={"HPCC_ROOTFS": "unpacked"})
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in open_dir.iterdir()) == ["drop", "evil.sif", "home"]


def test_no_room_to_unpack(runs_as: Person, installed: Installation) -> None:
    """A node directory that is too small is said to be so, and nothing half-made stays there."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount something")
    import subprocess

    node = runs_as.home / "node"
    node.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=2m,mode=0700,uid={runs_as.uid}", "none", node], check=True)
    try:
        done = runs_as.run([installed.hpcc, "exec", images().main, "true"], env={"HPCC_ROOTFS": "unpacked"})
        assert done.returncode == 255 and "too little to unpack" in done.stderr and "HPCC_NODE_DIR" in done.stderr
        assert not list((node / "unpacked-v1").glob("*partial*"))
    finally:
        subprocess.run(["umount", "-l", node], check=True)


def test_unpacked_copies_go_by_age_and_size_but_not_in_use(
    runs_as: Person, installed: Installation, open_dir: Path
) -> None:
    """Each run of another image makes room, by the setting, and leaves what a payload still stands in."""
    env = {"HPCC_ROOTFS": "unpacked", "HPCC_NODE_SIZE": "1"}
    paths = []
    for name in ("a", "b", "c"):
        (open_dir / name).mkdir()
        paths.append(copy_of(images().main, open_dir / name))
    argv = [str(installed.hpcc), "exec", "--writable-tmpfs", str(paths[0]), "sh", "-c", "echo in; read line; ls /bin"]
    process = runs_as.popen(argv, env=env, stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    for path in paths[1:]:
        done = runs_as.run([installed.hpcc, "exec", path, "true"], env=env)
        assert done.returncode == 0, done.stderr
    store = runs_as.home / "node/unpacked-v1"
    assert len([path for path in store.iterdir() if path.is_dir()]) == 2  # the first, in use, and the last
    out, _ = process.communicate("go\n", timeout=30)
    assert process.returncode == 0 and "busybox" in out
    assert runs_as.run([installed.hpcc, "exec", paths[1], "true"], env=env).returncode == 0
    assert len([path for path in store.iterdir() if path.is_dir()]) == 1
