"""hpcc cache gc, pin, roots, init, tiers, list and clean by the command line, as root and as a plain user."""

import grp
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation) -> Iterator[Puller]:
    with FakeRegistry() as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield Puller(runs_as, installed, registry)


def age(hpcc: Puller, days: float) -> None:
    then = time.time() - days * 86400
    for directory, names, found in os.walk(hpcc.cache, topdown=False):
        for name in (*names, *found):
            os.utime(os.path.join(directory, name), (then, then), follow_symlinks=False)


def good(hpcc: Puller, *argv: object, **options: object) -> str:
    done = hpcc(*argv, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout) + str(done.stderr)


def images(hpcc: Puller) -> int:
    return len(list((hpcc.cache / "sif-v1").glob("*.sif")))


def test_gc(hpcc: Puller) -> None:
    assert "moved to the trash: nothing" in good(hpcc, "cache", "gc")
    assert not hpcc.cache.exists()
    good(hpcc, "exec", hpcc.uri, "true")
    assert "moved to the trash: nothing" in good(hpcc, "cache", "gc", "--days", "1", "--max-size", "1")
    age(hpcc, 30)
    assert "moved to the trash: nothing" in good(hpcc, "cache", "gc", env={"HPCC_GC_DAYS": "40"})
    said = good(hpcc, "cache", "gc", "--dry-run", "--days", "20")
    assert re.search(r"would be moved to the trash: 1 container file\(s\), \S+ MiB; \d oci blob file\(s\), ", said), (
        said
    )
    assert images(hpcc) == 1
    rows = json.loads(hpcc("cache", "gc", "--json", env={"HPCC_GC_DAYS": "20"}).stdout)[str(hpcc.cache)]
    assert len(rows["removed"]) == rows["trash"]["files"] and rows["left"]["objects"] == 0
    assert images(hpcc) == 0 and "over the size" not in good(hpcc, "cache", "gc", "--max-size", "1")
    assert "deleted from the trash:" in good(hpcc, "cache", "gc", "--grace", "0")
    assert list((hpcc.cache / "trash").iterdir()) == []
    good(hpcc, "exec", hpcc.uri, "true")  # and it fills again


def test_gc_quietly_and_with_mistakes(hpcc: Puller) -> None:
    assert good(hpcc, "cache", "gc", "--quiet") == ""
    for argv, said in ((["--days", "x"], "--days 'x'"), (["--max-size", "-1"], "--max-size"), (["x"], "no argument")):
        done = hpcc("cache", "gc", *argv)
        assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr


def test_pins(hpcc: Puller) -> None:
    missing = hpcc("cache", "pin", hpcc.uri)
    assert missing.returncode == 255 and "not in the cache" in missing.stderr and "hpcc pull" in missing.stderr
    good(hpcc, "exec", hpcc.uri, "true")
    asked = len(hpcc.registry.requests)
    said = good(hpcc, "cache", "pin", "--note", "for the paper", hpcc.uri, env={"HPCC_TTL": "0"})
    key = re.search(r"Pinned ([0-9a-f]{12}) in ", said)
    assert key and len(hpcc.registry.requests) == asked
    age(hpcc, 30)
    said = good(hpcc, "cache", "gc", "--days", "20", "--max-size", "1")
    assert images(hpcc) == 1 and f"pinned by {hpcc.person.name}: " in said and "over the size" in said
    assert f"    pinned by {hpcc.person.name} (for the paper)\n" in good(hpcc, "cache", "list", "-v")
    assert f"pinned by {hpcc.person.name}" in good(hpcc, "cache", "clean", "-f", "-T", "sif") and images(hpcc) == 1
    good(hpcc, "exec", hpcc.uri, "true")
    assert "Unpinned" in good(hpcc, "cache", "unpin", key[1])
    assert "no pin of yours" in good(hpcc, "cache", "unpin", hpcc.uri)
    for name in ("0" * 12, "short", "docker://none.example/x"):
        done = hpcc("cache", "unpin", name)
        assert done.returncode == 255 and "HINT" in done.stderr, name
    age(hpcc, 30)
    good(hpcc, "cache", "gc", "--days", "20")
    assert images(hpcc) == 0


def test_roots(hpcc: Puller) -> None:
    assert good(hpcc, "cache", "roots") == "There are no roots.\n"
    good(hpcc, "pull", "mine.sif", hpcc.uri)
    good(hpcc, "cache", "roots", "add", "mine.sif")
    (row,) = json.loads(hpcc("cache", "roots", "--json").stdout)
    assert (row["path"], row["alive"], row["user"]) == (str(hpcc.path("mine.sif")), True, hpcc.person.name)
    assert str(hpcc.path("mine.sif")) in good(hpcc, "cache", "roots")
    age(hpcc, 30)
    assert "kept by roots: 1 container" in good(hpcc, "cache", "gc", "--days", "20") and images(hpcc) == 1
    hpcc.path("text").write_text("no image")
    for argv, said in ((["add", "text"], "no SIF"), (["add", "none"], "No such file"), (["add"], "add PATH"),
                       (["take", "x"], "add PATH")):  # fmt: skip
        done = hpcc("cache", "roots", *argv)
        assert done.returncode == 255 and said in done.stderr and "HINT" in done.stderr, done.stderr
    hpcc.path("mine.sif").unlink()
    assert "gone: " in good(hpcc, "cache", "roots")
    assert "Forgot 1 root(s)" in good(hpcc, "cache", "roots", "--prune")
    good(hpcc, "cache", "gc", "--days", "20")
    assert images(hpcc) == 0


def test_list(hpcc: Puller) -> None:
    good(hpcc, "exec", hpcc.uri, "true")
    hpcc.registry.add_image("other", "2", LAYERS[:1], config_of(LAYERS[:1]))
    age(hpcc, 30)
    good(hpcc, "pull", "two.sif", f"docker://{hpcc.registry.host}/other:2")
    text = good(hpcc, "cache", "list", "-v")
    rows = [line for line in text.splitlines() if re.search(r" (sif|blob|pack) +shared", line)]
    assert rows and all(len(line) <= 80 for line in (*rows, text.splitlines()[0]))
    days = [line.split()[1] for line in rows]
    assert days == sorted(days) and len(set(days)) == 2
    found = json.loads(hpcc("cache", "list", "--json").stdout)
    assert {row["tier"] for row in found} == {"shared"} and {row["user"] for row in found} == {hpcc.person.name}
    assert {row["kind"]: bool(row["image"]) for row in found} == {"sif": True, "blob": False, "pack": False}
    short = next(line.split()[0] for line in rows if " sif " in line)
    good(hpcc, "cache", "clean", "-f", "--name", short)
    assert images(hpcc) == 1


def test_tiers(hpcc: Puller) -> None:
    env = {"HPCC_LIBRARY_PATH": "/no/such/library"}
    text = good(hpcc, "cache", "tiers", env=env)
    assert [line.split()[0] for line in text.splitlines() if line[0] != " "] == ["library", "shared", "private"]
    assert "not there yet" in text and not hpcc.cache.exists()
    good(hpcc, "exec", hpcc.uri, "true")
    found = json.loads(hpcc("cache", "tiers", "--json").stdout)
    shared, private = found["tiers"]
    assert (shared["path"], shared["user"], shared["images"]) == (str(hpcc.cache), hpcc.person.name, 1)
    assert (shared["mode"], shared["writable"], private["mode"]) == (0o700, True, None)
    assert found["roomier"] == []
    hpcc.cache.chmod(0o777)
    assert "WARNING: everybody can write there" in good(hpcc, "cache", "tiers")


def test_init(hpcc: Puller) -> None:
    group = grp.getgrgid(hpcc.person.gid).gr_name
    path = hpcc.path("group")
    for _ in range(2):
        done = hpcc("cache", "init", path, "--group", group)
        assert done.returncode == 0 and f"{hpcc.person.home} lets the members" in done.stderr
        said = done.stdout
        for words in (f"export HPCC_CACHE_DIR={path}\n", f'cache_dir = "{path}"\n', "run each other's images"):
            assert words in said
        assert all(len(line) <= 80 for line in said.splitlines() if str(path) not in line)
    env = {"HPCC_CACHE_DIR": str(path)}
    assert good(hpcc, "exec", hpcc.uri, "cat", "/etc/greeting", env=env).startswith("hello from the image\n")
    assert f"group {group}" in good(hpcc, "cache", "tiers", env=env)
    for argv, said in (([path], "--group"), ([], "one directory"), ([path, "--group", "no-such"], "no group"),
                       (["/proc", "-g", group], "/proc")):  # fmt: skip
        done = hpcc("cache", "init", *argv)
        assert done.returncode == 255 and said in done.stderr and "HINT" in done.stderr, done.stderr


def test_clean_keeps_what_finds_the_images_that_stay(hpcc: Puller) -> None:
    other = f"docker://{hpcc.registry.host}/lab/other:2"
    hpcc.registry.add_image("lab/other", "2", LAYERS[:1], config_of(LAYERS[:1]))
    for uri in (hpcc.uri, other):
        good(hpcc, "exec", uri, "true")
    good(hpcc, "cache", "pin", hpcc.uri)
    assert "stays: pinned" in good(hpcc, "cache", "clean", "-f") and images(hpcc) == 1
    good(hpcc, "exec", "--offline", hpcc.uri, "true")
    good(hpcc, "cache", "unpin", hpcc.uri)
    link = hpcc.path("x.simg")
    good(hpcc, "pull", link, hpcc.uri)
    good(hpcc, "cache", "roots", "add", link)
    assert f"stays: {link}" in good(hpcc, "cache", "clean", "-f") and images(hpcc) == 1
    good(hpcc, "exec", "--offline", hpcc.uri, "true")
    link.unlink()
    assert "Removed" in good(hpcc, "cache", "clean", "-f") and images(hpcc) == 0
    assert list((hpcc.cache / "oci/blobs").glob("*/*")) == []


def test_clean_by_name_takes_that_image_alone(hpcc: Puller) -> None:
    hpcc.registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    other = hpcc.uri.replace(":1.4", ":2")
    for uri in (hpcc.uri, other):
        good(hpcc, "exec", uri, "true")
    done = hpcc("cache", "clean", "-f", "--name", hpcc.uri.replace(":1.4", ":7.7"))
    assert done.returncode == 255 and "not in the cache" in done.stderr and images(hpcc) == 2
    good(hpcc, "cache", "pin", other)
    assert "Removed 1 object(s)" in good(hpcc, "cache", "clean", "-f", "--name", other)  # named, though pinned
    assert images(hpcc) == 1
    good(hpcc, "exec", "--offline", hpcc.uri, "true")


@pytest.mark.parametrize("command", ["list", "verify", "gc", "stats", "clean"])
def test_a_cache_that_is_none(hpcc: Puller, command: str) -> None:
    hpcc.path("afile").write_text("x")
    done = hpcc("cache", command, env={"HPCC_CACHE_DIR": str(hpcc.path("afile"))})
    assert done.returncode == 255 and "afile: Not a directory" in done.stderr and "HINT" in done.stderr
    assert "cannot look into it: Not a directory" in good(
        hpcc, "cache", "tiers", env={"HPCC_CACHE_DIR": str(hpcc.path("afile"))}
    )


@pytest.mark.root
def test_clean_all_users_is_for_the_owner(plain_user: Person, installed: Installation, open_dir: Path) -> None:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    group = grp.getgrgid(plain_user.gid).gr_name
    root_home = open_dir / "root"
    root_home.mkdir(mode=0o700)
    owner, member = Person("root", 0, 0, root_home), plain_user.at(home)
    path = open_dir / "shared"
    assert owner.run([installed.hpcc, "cache", "init", path, "--group", group]).returncode == 0
    with FakeRegistry() as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG)
        env = {"HPCC_CACHE_DIR": str(path), "HPCC_INSECURE": registry.host}
        uri = f"docker://{registry.host}/{NAME}:1.4"
        assert member.run([installed.hpcc, "exec", uri, "true"], env=env).returncode == 0
        done = member.run([installed.hpcc, "cache", "clean", "--all-users", "-f"], env=env)
        assert done.returncode == 255 and "root's" in done.stderr and "HINT" in done.stderr
        done = owner.run([installed.hpcc, "cache", "clean", "-f"], env=env)
        assert done.stdout == "There is nothing of yours to remove.\n"
        done = owner.run([installed.hpcc, "cache", "clean", "--all-users", "--dry-run"], env=env)
        assert f"{plain_user.name}'s)" in done.stdout
        assert owner.run([installed.hpcc, "cache", "clean", "--all-users", "-f"], env=env).returncode == 0
        assert list((path / "sif-v1").iterdir()) == []
