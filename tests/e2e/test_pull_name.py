"""`pull --name`, as Snakemake, Nextflow and cwltool call it: a link to the image in the cache, and what was there."""

import json
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import LAYERS, NAME, Puller, registry  # noqa: F401
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import StallingStorage, config_of

SIMG = "0123456789abcdef0123456789abcdef.simg"


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Iterator[Puller]:  # noqa: F811
    registry.add_image("lab/other", "1", LAYERS[:1], config_of(LAYERS[:1]))
    yield Puller(runs_as, installed, registry)


def pull(hpcc: Puller, *argv: object, name: object = SIMG, status: int = 0, uri: str = "", **options: object) -> str:
    done = hpcc("pull", "--name", name, *argv, uri or hpcc.uri, **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return str(done.stderr)


def other(hpcc: Puller) -> str:
    return f"docker://{hpcc.registry.host}/lab/other:1"


def cached(hpcc: Puller) -> Path:
    (path,) = (hpcc.cache / "sif-v1").iterdir()
    return path


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(f".{SIMG}")]


def greet(hpcc: Puller, image: Path) -> None:
    done = hpcc("exec", image, "cat", "/etc/greeting")
    assert done.stdout == "hello from the image\n", done.stderr


# -- the link --------------------------------------------------------------------------------------------------------


def test_a_link_that_gc_knows(hpcc: Puller) -> None:
    said = pull(hpcc)
    path = hpcc.path(SIMG)
    assert f"{SIMG} is a link" in said and path.is_symlink() and os.readlink(path) == str(cached(hpcc))
    greet(hpcc, path)
    (root,) = json.loads(hpcc("cache", "roots", "--json").stdout)
    assert (root["path"], root["alive"], root["key"]) == (str(path), True, cached(hpcc).name.removesuffix(".sif"))
    # a run of the link is a use of the cached image, as a run of docker:// is
    assert (hpcc.cache / "uses" / root["key"] / str(hpcc.person.uid)).exists()
    clean = ("cache", "clean", "--force")
    assert hpcc(*clean).returncode == 0
    greet(hpcc, path)
    # Snakemake's --container-cleanup-images
    path.unlink()
    assert cached(hpcc).exists()
    assert hpcc(*clean).returncode == 0
    assert not list((hpcc.cache / "sif-v1").iterdir())


def test_where(hpcc: Puller) -> None:
    sub = hpcc.path("sub dir")
    sub.mkdir()
    hpcc.person.at(sub) if os.geteuid() == 0 else None
    pull(hpcc, "--dir", "sub dir")
    pull(hpcc, name=sub / "absolute.sif")
    pull(hpcc, name="ü's.sif", env={"SINGULARITY_PULLFOLDER": str(sub)})
    pull(hpcc, name="d.sif", env={"APPTAINER_PULLDIR": str(sub), "SINGULARITY_PULLFOLDER": "/no/such"})
    assert {path.name for path in sub.iterdir()} == {SIMG, "absolute.sif", "ü's.sif", "d.sif"}
    for path in sub.iterdir():
        assert os.readlink(path) == str(cached(hpcc))
        greet(hpcc, path)
    pull(hpcc, "--dir", sub, name="/no/such/dir/x.sif", status=255)
    assert hpcc.registry.counts["manifest_get"] <= 2


def test_what_the_container_is_told(hpcc: Puller) -> None:
    """Its own name, as under Apptainer, not where the cache has it."""
    pull(hpcc, name="tools.sif")
    done = hpcc("exec", "tools.sif", "sh", "-c", 'echo "$APPTAINER_CONTAINER $SINGULARITY_NAME"')
    assert done.stdout == f"{hpcc.path('tools.sif')} tools.sif\n"


def test_without_name_it_is_a_file_of_ones_own(hpcc: Puller) -> None:
    assert hpcc("pull", "own.sif", hpcc.uri).returncode == 0
    assert not hpcc.path("own.sif").is_symlink()
    assert json.loads(hpcc("cache", "roots", "--json").stdout) == []


def test_nextflow_renames_it(hpcc: Puller) -> None:
    """It pulls NAME.pulling.<milliseconds>, and renames that to NAME: the root is the latter's, too."""
    pull(hpcc, name="lab-tools-1.4.img.pulling.1763990000123")
    hpcc.path("lab-tools-1.4.img.pulling.1763990000123").rename(hpcc.path("lab-tools-1.4.img"))
    assert hpcc("cache", "clean", "--force").returncode == 0
    greet(hpcc, hpcc.path("lab-tools-1.4.img"))
    roots = {root["path"]: root["alive"] for root in json.loads(hpcc("cache", "roots", "--json").stdout)}
    assert roots[str(hpcc.path("lab-tools-1.4.img"))] is True


def test_without_a_cache_it_is_a_copy(hpcc: Puller) -> None:
    pull(hpcc, "--disable-cache")
    assert not hpcc.path(SIMG).is_symlink() and stat.S_IMODE(hpcc.path(SIMG).stat().st_mode) == 0o755
    greet(hpcc, hpcc.path(SIMG))


def test_from_a_library(hpcc: Puller) -> None:
    """A read-only tier: the link leads there, and nobody tries to tell it."""
    assert hpcc("pull", "x.sif", hpcc.uri).returncode == 0
    hpcc.cache.rename(hpcc.path("library"))
    for directory in [path for path in hpcc.path("library").rglob("*") if path.is_dir()]:
        directory.chmod(0o555)
    env = {"HPCC_LIBRARY_PATH": str(hpcc.path("library")), "HPCC_OFFLINE": "1"}
    said = pull(hpcc, env=env)
    assert "WARNING" not in said and hpcc.path(SIMG).resolve().is_relative_to(hpcc.path("library"))
    done = hpcc("exec", SIMG, "cat", "/etc/greeting", env=env)
    assert done.stdout == "hello from the image\n", done.stderr
    assert not (hpcc.path("library") / "roots").exists()


@pytest.mark.root
def test_who_can_read_it(plain_user: Person, installed: Installation, registry: FakeRegistry, open_dir: Path) -> None:  # noqa: F811
    """In a directory where others write, too, a link would lead them into a cache that they cannot read."""
    (open_dir / "home").mkdir(mode=0o755)
    hpcc = Puller(plain_user.at(open_dir / "home"), installed, registry)
    private, group = plain_user.gid, 65533
    for mode, gid, link in (
        (0o755, group, True),
        (0o775, private, True),
        (0o2775, group, False),
        (0o1777, group, False),
    ):
        directory = open_dir / f"{mode:o}-{gid}"
        directory.mkdir()
        os.chown(directory, plain_user.uid, gid)
        directory.chmod(mode)
        said = pull(hpcc, name=directory / SIMG)
        assert (directory / SIMG).is_symlink() is link, (mode, gid)
        assert ("is a copy" in said) is not link
        greet(hpcc, directory / SIMG)
    # the group's own cache
    for path in [hpcc.cache, *hpcc.cache.rglob("*")]:
        os.chown(path, plain_user.uid, group)
        path.chmod(0o3770 if path.is_dir() else 0o444)
    pull(hpcc, "--force", name=open_dir / f"2775-{group}" / SIMG)
    assert (open_dir / f"2775-{group}" / SIMG).is_symlink()
    hpcc.person.home.chmod(0o700)  # what is above it counts
    pull(hpcc, "--force", name=open_dir / f"2775-{group}" / SIMG)
    assert not (open_dir / f"2775-{group}" / SIMG).is_symlink()


def test_where_nothing_may_be_written(hpcc: Puller) -> None:
    said = pull(hpcc, name=f"/proc/{SIMG}", status=255)
    assert f"cannot write /proc/{SIMG}" in said and "HINT" in said


# -- what is there already -------------------------------------------------------------------------------------------


def test_the_same_image_stays(hpcc: Puller) -> None:
    """As where two workflows with one prefix both pull: nobody is refused."""
    pull(hpcc)
    before = os.lstat(hpcc.path(SIMG))
    assert "is there already, and is this image" in pull(hpcc)
    assert os.lstat(hpcc.path(SIMG)).st_ino == before.st_ino
    assert hpcc("pull", "--force", "copy.sif", hpcc.uri).returncode == 0
    assert "is there already, and is this image" in pull(hpcc, name="copy.sif")
    assert not hpcc.path("copy.sif").is_symlink()


def test_another_image_stays_unless_forced(hpcc: Puller) -> None:
    shutil.copy(images().main, hpcc.path("main.sif"))
    shutil.copy(images().squashfs, hpcc.path("main.sqfs"))
    shutil.copy(images().old, hpcc.path("old.simg"))
    pull(hpcc)
    asked = list(hpcc.registry.requests)
    for name in ("main.sif", "main.sqfs", "old.simg", SIMG):
        before = hpcc.path(name).read_bytes()
        said = pull(hpcc, name=name, uri=other(hpcc), status=255)
        assert f"{name} is there already, and is another image" in said and "--force" in said
        assert hpcc.path(name).read_bytes() == before
    assert hpcc.registry.requests == asked  # known before anybody is asked
    for name in ("main.sif", SIMG):
        pull(hpcc, "--force", name=name, uri=other(hpcc))
        assert hpcc.path(name).is_symlink() and hpcc.path(name).resolve() != hpcc.cache


def test_another_version_of_it_stays(hpcc: Puller) -> None:
    pull(hpcc)
    hpcc.registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    said = pull(hpcc, uri=hpcc.uri.replace(":1.4", ":2"), status=255)
    assert "is another image" in said
    greet(hpcc, hpcc.path(SIMG))


@pytest.mark.parametrize("what", ["notes", "zeros", "directory", "fifo", "unreadable", "short notes"])
def test_what_is_no_image_stays(hpcc: Puller, what: str) -> None:
    path = hpcc.path(SIMG)
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "unreadable":
        shutil.copy(images().main, path)
        path.chmod(0)
    else:
        path.write_bytes({"notes": b"my notes\n" * 100, "zeros": bytes(100_000), "short notes": b"#!"}[what])
    before = os.lstat(path)
    if what == "short notes":  # as good as nothing, and how each image begins
        assert "half an image" in pull(hpcc)
        return
    said = pull(hpcc, status=255)
    assert f"{SIMG} is there already, and " in said
    assert os.lstat(path).st_ino == before.st_ino and hpcc.registry.requests == []


def _cut(image: Path, path: Path, size: int) -> None:
    with open(image, "rb") as source:
        path.write_bytes(source.read(size))


@pytest.mark.parametrize("size", [0, 20, 40, 100, 5000, 0.5, -1])
@pytest.mark.parametrize("kind", ["main", "squashfs", "old"])
def test_half_an_image_is_replaced(hpcc: Puller, kind: str, size: float) -> None:
    """What an interrupted pull of somebody else has left, of whatever format and length."""
    image = getattr(images(), kind)
    whole = image.stat().st_size
    length = int(whole * size) if isinstance(size, float) else whole - 5000 if size < 0 else size
    _cut(image, hpcc.path(SIMG), length)
    said = pull(hpcc)
    assert "WARNING" in said and f"{SIMG} is half an image" in said and "it is replaced" in said
    assert hpcc.path(SIMG).is_symlink()
    greet(hpcc, hpcc.path(SIMG))
    assert leftovers(hpcc.person.home) == []


def test_a_sif_of_which_only_the_header_came_to_the_disk(hpcc: Puller) -> None:
    """As a crash leaves it: the length is right, the data are zeros."""
    shutil.copy(images().main, hpcc.path(SIMG))
    size = hpcc.path(SIMG).stat().st_size
    os.truncate(hpcc.path(SIMG), 8192)
    os.truncate(hpcc.path(SIMG), size)
    assert "is half an image" in pull(hpcc)
    greet(hpcc, hpcc.path(SIMG))


def test_half_an_image_that_runs_says_what_to_do(hpcc: Puller) -> None:
    """Snakemake looks whether the file is there, and no more, so its jobs meet this."""
    for size in (0, 100, 100_000):
        _cut(images().main, hpcc.path(SIMG), size)
        done = hpcc("exec", SIMG, "true")
        assert done.returncode == 255 and SIMG in done.stderr and "Traceback" not in done.stderr
        assert "pull" in done.stderr.partition("HINT")[2], done.stderr


def test_a_link_to_what_is_gone(hpcc: Puller) -> None:
    """The cache was purged, or cleaned by somebody who knows no roots: `exec` says so, and a new pull is no problem."""
    pull(hpcc)
    shutil.rmtree(hpcc.cache)
    done = hpcc("exec", SIMG, "true")
    assert done.returncode == 255 and f"{SIMG} is a link to {hpcc.cache}" in done.stderr and "gone" in done.stderr
    assert "Pull the image again" in done.stderr
    pull(hpcc)
    greet(hpcc, hpcc.path(SIMG))
    for target in ("nowhere", SIMG):  # anybody's, and a loop
        hpcc.path(SIMG).unlink()
        hpcc.path(SIMG).symlink_to(target)
        assert "a link to an image that is gone; it is replaced" in pull(hpcc)
        greet(hpcc, hpcc.path(SIMG))


# -- at once, and half-way -------------------------------------------------------------------------------------------


def test_many_at_once_are_one_pull(hpcc: Puller) -> None:
    """Of all of them nobody is refused; some begin with half an image in the way."""
    before = hpcc.registry.counts["manifest_get"]
    _cut(images().main, hpcc.path(SIMG), 5000)
    argv = [hpcc.installed.hpcc, "pull", "--name", SIMG, hpcc.uri]
    running = [hpcc.person.popen(argv, env=hpcc.env) for _ in range(8)]
    assert [process.wait(timeout=120) for process in running] == [0] * 8
    assert hpcc.registry.counts["manifest_get"] - before == 2  # the index, and the image in it
    assert os.readlink(hpcc.path(SIMG)) == str(cached(hpcc)) and leftovers(hpcc.person.home) == []
    assert max(sum(path.endswith(digest) for _, path in hpcc.registry.requests) for digest in hpcc.registry.blobs) == 1


def test_killed_half_way(hpcc: Puller) -> None:
    """Nothing is at the name until all is; the next pull goes on."""
    with StallingStorage(hpcc.registry.blobs) as storage:
        hpcc.registry.faults = hpcc.registry.faults._replace(redirect=storage.url)
        argv = [hpcc.installed.hpcc, "pull", "--name", SIMG, hpcc.uri]
        process = hpcc.person.popen(argv, env=hpcc.env, start_new_session=True)
        assert storage.stalled.wait(60)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    hpcc.registry.faults = hpcc.registry.faults._replace(redirect="")
    assert not os.path.lexists(hpcc.path(SIMG)) and leftovers(hpcc.person.home) == []
    pull(hpcc)
    greet(hpcc, hpcc.path(SIMG))


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [("quota", 75, "429"), ("private", 255, "unauthorized|denied"), ("missing", 255, "no image")],
)
def test_a_failed_pull_leaves_nothing(hpcc: Puller, fault: str, status: int, said: str) -> None:
    uri = hpcc.uri
    if fault == "quota":
        hpcc.registry.quota = 0
    elif fault == "private":
        hpcc.registry.private = (NAME,)
        hpcc.registry.username, hpcc.registry.password = "me", "secret"
    else:
        uri = uri.replace(":1.4", ":1.5")
    assert re.search(said, pull(hpcc, uri=uri, status=status))
    assert [name for name in os.listdir(hpcc.person.home) if SIMG in name] == []


# -- roots -----------------------------------------------------------------------------------------------------------


def test_roots_remove(hpcc: Puller) -> None:
    pull(hpcc)
    done = hpcc("cache", "roots", "remove", SIMG)
    assert done.returncode == 0 and "keeps nothing" in done.stderr
    assert json.loads(hpcc("cache", "roots", "--json").stdout) == [] and hpcc.path(SIMG).is_symlink()
    done = hpcc("cache", "roots", "remove", SIMG)
    assert done.returncode == 0 and "was no root of yours" in done.stderr
    done = hpcc("cache", "roots", "remove")
    assert done.returncode == 255 and "needs a path" in done.stderr
    assert hpcc("cache", "roots", "add", SIMG).returncode == 0
    assert len(json.loads(hpcc("cache", "roots", "--json").stdout)) == 1
