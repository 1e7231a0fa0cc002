"""Parts of hpcc build by themselves: what packs, unpacks and writes, and the process in which they work."""

import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from hpcc.build import metadata
from hpcc.build.files import copy_files
from hpcc.build.inside import Inside
from hpcc.build.pack import How, pack_squashfs
from hpcc.build.unpack import copy_directory, remove_tree, unpack_squashfs
from hpcc.definition.model import Transfer
from hpcc.definition.parse import parse
from hpcc.errors import InvalidImage, RuntimeUnavailable, UsageError
from hpcc.pack import DataWriter
from hpcc.progress import SILENT
from hpcc.settings import Settings


def test_what_is_replaced_by_a_link_while_it_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for top, text in ((root / "opt", "public"), (outside, "secret")):
        top.mkdir(parents=True)
        (top / "key").write_text(text)
    add = DataWriter.add

    def swapped(self: DataWriter, *arguments: Any) -> None:
        if not (root / "opt").is_symlink():
            (root / "opt").rename(root / "old")
            (root / "opt").symlink_to(outside)
        add(self, *arguments)

    monkeypatch.setattr(DataWriter, "add", swapped)
    with pytest.raises(InvalidImage, match="opt/key was replaced while it was packed"):
        pack_squashfs(str(root), str(tmp_path / "image"), How("gzip", False))


def test_without_owners_nothing_is_set_user_id(tmp_path: Path) -> None:
    root, image = tmp_path / "root", tmp_path / "image"
    (root / "shared").mkdir(parents=True)
    (root / "su").write_text("su")
    (root / "su").chmod(0o6755)
    (root / "shared").chmod(0o2775)
    pack_squashfs(str(root), str(image), How("gzip", True))

    def modes(top: Path) -> list[int]:
        return [stat.S_IMODE((top / name).stat().st_mode) for name in ("su", "shared")]

    for owners in (False, True):
        unpacked, copied = tmp_path / f"unpacked-{owners}", tmp_path / f"copied-{owners}"
        unpack_squashfs(str(image), 0, image.stat().st_size, str(unpacked), owners=owners)
        copy_directory(str(root), str(copied), owners=owners)
        assert modes(unpacked) == ([0o6755, 0o2775] if owners else [0o755, 0o775])
        assert modes(copied)[0] == (0o6755 if owners else 0o755)


def test_a_link_to_the_directory_that_it_is_in(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "below").mkdir(parents=True)
    root.mkdir()
    (source / "below/self").symlink_to("..")
    with pytest.raises(UsageError, match="the link self leads to a directory that it is in"):
        copy_files([Transfer(str(source), "/opt")], str(root))


def test_a_tree_without_a_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for number in range(3000):
        os.mkdir("d" if number % 7 else "d" * 200, 0o700, dir_fd=fd)
        below = os.open("d" if number % 7 else "d" * 200, os.O_RDONLY, dir_fd=fd)
        os.fchmod(below, 0o700)
        os.close(fd)
        fd = below
    os.fchmod(fd, 0o000)
    os.close(fd)
    remove_tree(str(top))
    assert list(tmp_path.iterdir()) == []


def test_the_process_is_killed(tmp_path: Path) -> None:
    inside = Inside(Settings.from_environ({"HOME": str(tmp_path)}), SILENT)
    os.kill(inside._pid, signal.SIGKILL)
    for _ in range(2):  # the second time as a build does that cleans up
        with pytest.raises(RuntimeUnavailable, match="was ended from outside") as raised:
            inside.call(os.getpid)
        assert "memory" in raised.value.hint
    inside.close()


def test_a_fault_in_the_process_is_not_its_end(tmp_path: Path) -> None:
    inside = Inside(Settings.from_environ({"HOME": str(tmp_path)}), SILENT)
    with pytest.raises(OverflowError):
        inside.call(time.gmtime, 1e30)
    assert inside.call(os.getpid) == inside._pid
    inside.close()


def test_texts_of_apps_that_are_no_utf8(tmp_path: Path) -> None:
    text = b"Bootstrap: busybox\n%apprun foo\n  echo gr\xfcn\n%appenv foo\n  export A=\xfc\n"
    definition, _ = parse(text.decode("utf-8", "surrogateescape"), "x.def", {})
    metadata.prepare(str(tmp_path), definition.stages[0])
    assert b"echo gr\xfcn" in (tmp_path / "scif/apps/foo/scif/runscript").read_bytes()
    assert b"export A=\xfc" in (tmp_path / "scif/apps/foo/scif/env/90-environment.sh").read_bytes()
