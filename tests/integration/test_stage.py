"""Paths inside of an image that wants out: never followed by the kernel, and never resolved above the image's root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcc.runtime.stage import MAX_LINKS, make_points, read_in_root, resolve


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """outside/secret beside root/, in which links lead to it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/motd").write_text("inside")
    for name, target in {
        "bin": "usr/bin",
        "abs": "/etc",
        "out": str(tmp_path / "outside"),
        "up": "../../../outside",
        "mixed": "usr/../../../outside/../etc",
        "loop": "loop",
        "a": "b",
        "b": "/a",
        "dangling": "/not/there",
        "updangling": "../../x/y",
        "magic": "/proc/self/root",
        "usr/deep": "../../../../etc/motd",
        "dot": ".",
        "empty-parts": "//etc///./motd",
    }.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def root(top: Path) -> Iterator[int]:
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def found(root: int, path: str) -> tuple[str, list[str]]:
    """(the real path of what was reached, relative to the root; what is missing), with the names checked."""
    fd, names, missing = resolve(root, path)
    try:
        here, base = os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/self/fd/{root}")
        assert here == base or here.startswith(base + "/"), here
        assert "/".join([base, *names]) == here
        return here[len(base) :], missing
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "reached", "missing"),
    [
        ("/", "", []),
        ("/etc/motd", "/etc/motd", []),
        ("/bin/new", "/usr/bin", ["new"]),
        ("/abs/motd", "/etc/motd", []),
        ("/../../etc", "/etc", []),
        ("/usr/../etc/./motd", "/etc/motd", []),
        ("/up/secret", "", ["outside", "secret"]),
        ("/mixed/motd", "/etc/motd", []),
        ("/usr/deep", "/etc/motd", []),
        ("/dangling/x", "", ["not", "there", "x"]),
        ("/updangling", "", ["x", "y"]),
        ("/magic/etc", "", ["proc", "self", "root", "etc"]),
        ("/dot/dot/dot/etc", "/etc", []),
        ("/empty-parts", "/etc/motd", []),
        ("/a/../etc", None, None),
    ],
)
def test_resolve(root: int, path: str, reached: str | None, missing: list[str] | None) -> None:
    if reached is None:
        with pytest.raises(OSError):
            resolve(root, path)
        return
    if path.startswith("/mixed"):  # `usr/../../../outside/../etc`: outside is not there, and its .. is not guessed
        with pytest.raises(FileNotFoundError):
            resolve(root, path)
        return
    assert found(root, path) == (reached, missing)


def test_a_link_to_a_place_outside_stays_inside(root: int, top: Path) -> None:
    reached, missing = found(root, "/out/secret")
    assert reached == "" and missing[-2:] == ["outside", "secret"]


def test_loops_and_files_in_the_way(root: int) -> None:
    for path in ("/loop", "/loop/x", "/a", "/b/c"):
        with pytest.raises(OSError, match="symbolic links"):
            resolve(root, path)
    with pytest.raises(NotADirectoryError):
        resolve(root, "/etc/motd/below")


def test_chains_up_to_the_limit(root: int, top: Path) -> None:
    (top / "l0").symlink_to("etc")
    for n in range(1, MAX_LINKS + 1):
        (top / f"l{n}").symlink_to(f"l{n - 1}")
    assert found(root, f"/l{MAX_LINKS - 1}") == ("/etc", [])
    with pytest.raises(OSError, match="symbolic links"):
        resolve(root, f"/l{MAX_LINKS}")


def test_no_descriptor_is_lost(root: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/etc/motd", "/abs/../usr/bin", "/dangling/x", "/loop", "/etc/motd/x", "/up/..", "/mixed"):
        try:
            os.close(resolve(root, path)[0])
        except OSError:
            pass
    assert len(os.listdir("/proc/self/fd")) == before


NAMES = ("a", "b", "c", "..", ".", "d")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.dictionaries(
        st.lists(st.sampled_from(("a", "b", "c", "d")), min_size=1, max_size=2).map("/".join),
        st.tuples(st.booleans(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)),
        max_size=5,
    ),
    path=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
)
def test_no_tree_of_links_leads_out(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, tuple[bool, list[str]]], path: list[str]
) -> None:
    top = tmp_path_factory.mktemp("r") / "root"
    top.mkdir()
    (top.parent / "a").mkdir()  # what a link that climbs would find
    for name, (absolute, target) in links.items():
        place = top / name
        try:
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(("/" if absolute else "") + "/".join(target))
        except OSError:
            continue
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        found(fd, "/".join(path))
    except OSError:
        pass
    finally:
        os.close(fd)


def test_make_points(root: int, top: Path, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (top / "etc").chmod(0o2750)
    source = tmp_path / "outside/secret"
    points = (
        ("/etc/motd", False, ""),  # is there
        ("/abs/new/file", None, str(source)),
        ("/abs/new/dir", None, str(source.parent)),
        ("/bin/tool", False, ""),
        ("/dangling/x", True, ""),
        ("/loop/x", True, ""),  # whoever mounts there will say so
        ("/nothing", None, "/no/such/source"),
        ("/etc/motd/below", True, ""),
    )
    os.umask(os.umask(0o022))
    assert make_points(root, str(layer), points)
    tree = {str(path.relative_to(layer)): path.lstat().st_mode for path in layer.rglob("*")}
    kinds = {name: "d" if stat.S_ISDIR(mode) else "f" for name, mode in tree.items()}
    assert kinds == {
        "etc": "d", "etc/new": "d", "etc/new/file": "f", "etc/new/dir": "d",
        "usr": "d", "usr/bin": "d", "usr/bin/tool": "f", "not": "d", "not/there": "d", "not/there/x": "d",
    }  # fmt: skip
    assert stat.S_IMODE(tree["etc"]) == 0o750
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert not make_points(root, str(layer), (("/etc/motd", False, ""), ("/usr", True, "")))


def test_read_in_root(top: Path) -> None:
    assert read_in_root(str(top), "/usr/deep") == b"inside"
    assert read_in_root(str(top), "/abs/motd", limit=3) == b"ins"
    for path in ("/out/secret", "/etc", "/loop", "/nothing", "/up/secret"):
        assert read_in_root(str(top), path) is None
    os.mkfifo(top / "fifo")
    assert read_in_root(str(top), "/fifo") is None  # and does not wait for a writer
