"""--stage: an image from a copy on the node's own disk."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.images import Images, copy_of
from tests.support.sharedfs import SharedFs


def staged(hpcc: Hpcc) -> list[Path]:  # noqa: F811
    directory = hpcc.person.home / "node/staged-v1"
    return [path for path in directory.glob("*") if path.suffix not in (".lock", ".making")]


def test_the_copy_serves_without_the_original(hpcc: Hpcc, image: Images, open_dir: Path) -> None:  # noqa: F811
    path = copy_of(image.main, open_dir)
    done = hpcc("exec", "--stage", "node", path, "cat", "/etc/os-release")
    assert done.returncode == 0 and done.stdout.startswith("ID=hpcc-demo"), done.stderr
    (copy,) = staged(hpcc)
    assert copy.read_bytes() == path.read_bytes() and copy.stat().st_mode & 0o077 == 0
    before = copy.stat().st_ino
    said = hpcc("exec", "--dry-run", "--stage", "node", path, "true").stdout
    assert f"Image {copy}" in said
    assert hpcc("exec", path, "true", env={"HPCC_STAGE": "node"}).returncode == 0
    assert [each.stat().st_ino for each in staged(hpcc)] == [before]
    with path.open("r+b") as file:  # another image under the same name
        file.write(path.read_bytes()[:10])
    os.utime(path)
    assert hpcc("exec", "--stage", "node", path, "true").returncode == 0 and len(staged(hpcc)) == 2


def test_many_at_once_copy_once(hpcc: Hpcc, image: Images, open_dir: Path) -> None:  # noqa: F811
    path = copy_of(image.main, open_dir)
    argv = [str(hpcc.installed.hpcc), "exec", "--stage", "node", str(path), "sh", "-c", "echo $$"]
    running = [hpcc.person.popen(argv, stdout=-1, text=True) for _ in range(8)]
    assert all(process.communicate(timeout=60)[0].strip().isdigit() for process in running)
    assert len(staged(hpcc)) == 1


@pytest.mark.parametrize("how", ["node", "auto"])
def test_where_it_cannot_be(hpcc: Hpcc, image: Images, open_dir: Path, how: str) -> None:  # noqa: F811
    """node insists; auto goes on. What is local is nothing for auto."""
    path = copy_of(image.main, open_dir)
    if how == "node":
        (hpcc.person.home / "node").mkdir(mode=0o700)
        (hpcc.person.home / "node/staged-v1").write_text("in the way")
        shutil.chown(hpcc.person.home / "node", hpcc.person.uid, hpcc.person.gid)
        done = hpcc("exec", "--stage", how, path, "true")
        assert done.returncode == 255 and "staged-v1" in done.stderr and "Traceback" not in done.stderr, done.stderr
    else:
        assert hpcc("exec", "--stage", how, path, "true").returncode == 0 and staged(hpcc) == []


def test_wrong_words(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    done = hpcc("exec", "--stage", "somewhere", image.main, "true")
    assert done.returncode == 255 and "--stage 'somewhere': shared | node | auto" in done.stderr, done.stderr


@pytest.mark.root
def test_auto_copies_what_nodes_share(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """MooseFS, as one of two nodes sees it."""
    with SharedFs() as fs:
        path = fs.nodes[0].mount / "image.sif"
        shutil.copy(image.main, path)
        path.chmod(0o755)
        done = hpcc("exec", "--stage", "auto", path, "cat", "/etc/os-release")
        assert done.returncode == 0 and done.stdout.startswith("ID=hpcc-demo"), done.stderr
        assert len(staged(hpcc)) == 1
