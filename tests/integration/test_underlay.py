"""Mount points without overlay: the union of an image and a tree of points, by directories, links and binds.

The binds need a mount namespace, so it is built in a child, which reports what it sees.
"""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcc.runtime import _kernel as kernel
from hpcc.runtime.host import enter_user_namespace, in_child
from hpcc.runtime.rootfs import bind, remount
from hpcc.runtime.stage import make_points
from hpcc.runtime.underlay import build_underlay


def in_namespaces(work: Callable[[], Any]) -> Any:
    """What `work` returns, run in a child with mounts of its own. A skip where this host gives none."""

    def enter() -> None:
        if os.geteuid() != 0:
            enter_user_namespace(os.geteuid(), os.getegid())
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)

    if not in_child(enter):
        pytest.skip("this host gives no mount namespaces")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter()
            answer: Any = ["value", work()]
        except BaseException as error:
            answer = ["error", repr(error)]
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        kind, value = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert kind == "value", value
    return value


@pytest.fixture
def image(tmp_path: Path) -> Path:
    top = tmp_path / "image"
    for name in ("etc/conf.d", "usr/bin", "var/log", "closed"):
        (top / name).mkdir(parents=True)
    (top / "etc/motd").write_text("image\n")
    (top / "etc/conf.d/one").write_text("1")
    (top / "bin").symlink_to("usr/bin")
    (top / "out").symlink_to(tmp_path / "outside")
    (top / "etc/link").symlink_to("motd")
    os.mkfifo(top / "etc/fifo")
    (top / "top").write_text("t")
    (top / "closed").chmod(0o711)
    (top / "var").chmod(0o1777)
    (tmp_path / "outside").mkdir()
    return top


def build(image: Path, points: list[tuple[str, bool]], look: Callable[[str], Any]) -> Any:
    """`look` at the underlay of the image with these points (path, whether a directory)."""
    work = image.parent
    for name in ("points", "under"):
        (work / name).mkdir()

    def do() -> Any:
        root = os.open(image, os.O_PATH | os.O_DIRECTORY)
        make_points(root, f"{work}/points", tuple((path, directory, "") for path, directory in points))
        build_underlay(root, str(image), f"{work}/points", f"{work}/under")
        return look(f"{work}/under")

    return in_namespaces(do)


def tree(top: str) -> dict[str, str]:
    found = {}
    for parent, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            found[os.path.relpath(path, top)] = (
                f"-> {os.readlink(path)}" if stat.S_ISLNK(mode) else f"{stat.S_IFMT(mode):o} {stat.S_IMODE(mode):o}"
            )
    return found


def test_union(image: Path) -> None:
    points = [("/etc/new/dir", True), ("/etc/file", False), ("/bin/tool", False), ("/brand/new", True)]
    found = build(image, points, tree)
    before = tree(str(image))
    new = {name: what for name, what in found.items() if name not in before}
    assert {name: what.split()[0] for name, what in new.items()} == {
        "etc/new": "40000", "etc/new/dir": "40000", "etc/file": "100000", "usr/bin/tool": "100000",
        "brand": "40000", "brand/new": "40000",
    }  # fmt: skip
    assert {name: found.get(name) for name in before} == before  # modes, links and kinds stay
    assert tree(str(image)) == before and os.listdir(image.parent / "outside") == []


def test_contents_are_the_images(image: Path) -> None:
    def look(top: str) -> list[str]:
        return [Path(top, name).read_text() for name in ("etc/motd", "etc/link", "etc/conf.d/one", "top")]

    assert build(image, [("/etc/x", True)], look) == ["image\n", "image\n", "1", "t"]


def test_points_behind_links_stay_inside(image: Path) -> None:
    found = build(image, [("/out/secret/place", True), ("/bin/../../../up", True)], tree)
    inside = str(image.parent / "outside").lstrip("/")
    assert f"{inside}/secret/place" in found and "up" in found
    assert os.listdir(image.parent / "outside") == []


def test_read_only_holds_below(image: Path) -> None:
    def look(top: str) -> list[bool]:
        target = f"{image.parent}/final"
        os.mkdir(target)
        bind(top, target)
        remount(target, readonly=True)
        return [_may_write(f"{target}/{name}") for name in ("x", "etc/x", "etc/conf.d/x", "etc/new/x")]

    assert build(image, [("/etc/new", True)], look) == [False, False, False, False]


@pytest.mark.parametrize("recursive", [True, False], ids=["mount_setattr", "older kernels"])
def test_remount_reaches_mounts_below(tmp_path: Path, recursive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel has no mount_setattr(2), and with names that mountinfo escapes."""
    if not recursive:

        def missing(target: str, attributes: int) -> None:
            raise OSError(38, "Function not implemented", target)

        monkeypatch.setattr(kernel, "set_mount_attributes", missing)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub dir\\ü").mkdir(parents=True)
    target.mkdir()

    def work() -> list[object]:
        kernel.mount("tmpfs", str(source / "sub dir\\ü"), "tmpfs")
        bind(str(source), str(target))
        fd = os.open(target, os.O_PATH)
        remount(f"/proc/self/fd/{fd}", readonly=True)
        below = os.statvfs(target / "sub dir\\ü").f_flag
        return [
            _may_write(f"{target}/x"), _may_write(f"{target}/sub dir\\ü/x"), _may_write(f"{source}/sub dir\\ü/x"),
            bool(below & os.ST_NOSUID), bool(below & os.ST_NODEV),
        ]  # fmt: skip

    assert in_namespaces(work) == [False, False, True, True, True]


def _may_write(path: str) -> bool:
    try:
        os.mkdir(path)
    except OSError:
        return False
    return True
