"""hpcc.lock: the format, the search upward, whose file is believed, and the images that a text names."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.cli.uris import find_uris
from hpcc.errors import CacheError, HpccError, SettingsError, UsageError
from hpcc.lockfile import LIMIT, Lock, find_lock, locked, read_lock, write_lock
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference

DEBIAN = Reference.parse("debian:12")
PYTHON = Reference.parse("python:3.12")
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
BOTH = Lock("hpcc.lock").with_(PYTHON, ONE).with_(DEBIAN, TWO)
STRANGER = 12345

# -- the format --------------------------------------------------------------------------------------------------

_words = st.from_regex(r"\A[a-z0-9]{1,8}\Z")
_tags = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")
_hosts = st.sampled_from(["", "quay.io/", "localhost:5000/", "[2001:db8::1]:443/", "registry.example/"])
references = st.builds(
    lambda host, path, tag: Reference.parse(f"{host}{'/'.join(path)}:{tag}"),
    _hosts, st.lists(_words, min_size=2, max_size=4), _tags,
)  # fmt: skip
digests = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]))
locks = st.dictionaries(references, digests, max_size=12)


@given(locks)
def test_round_trip(images: dict[Reference, Digest]) -> None:
    lock = Lock("hpcc.lock")
    for reference, digest in images.items():
        lock = lock.with_(reference, digest)
    backwards = Lock("hpcc.lock")
    for reference in reversed(list(images)):
        backwards = backwards.with_(reference, ONE).with_(reference, images[reference])
    data = lock.text().encode()
    assert backwards.text().encode() == data
    assert Lock.parse(data, "hpcc.lock") == lock
    assert Lock.parse(data + b"# by hand\n", "hpcc.lock") == lock  # which takes the way of other TOML
    assert Lock.parse(data.replace(b"\n", b"\r\n"), "hpcc.lock") == lock
    names = [line for line in lock.text().splitlines() if line.startswith('"')]
    assert len(names) == len(images) and [name for name, _ in lock.images] == sorted(name for name, _ in lock.images)
    for reference, digest in images.items():
        assert lock.digest_of(reference) == digest
        assert lock.without(reference).digest_of(reference) is None
        assert len(lock.without(reference).images) == len(images) - 1


@given(locks, st.data())
def test_a_damaged_file_is_refused_or_read_as_toml_says(images: dict[Reference, Digest], data: st.DataObject) -> None:
    """The quick way and tomllib agree, whatever byte is changed."""
    from hpcc.lockfile import _read_own_form, _read_toml

    text = bytearray(Lock("x", tuple(sorted((r.canonical, d) for r, d in images.items()))).text().encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        lock = Lock.parse(bytes(text), "x")
    except SettingsError as error:
        assert error.message.startswith("x")
        return
    if _read_own_form(bytes(text).decode()) is not None:
        as_toml = _read_toml(bytes(text).decode(), "x")
        assert {Reference.parse(name).canonical: value for name, value in as_toml.items()} == {
            name: str(digest) for name, digest in lock.images
        }


def test_the_bytes() -> None:
    assert BOTH.text() == (
        "# Images by digest. `hpcc lock` writes this file, `hpcc lock --update` moves the digests; commit it.\n"
        "version = 1\n\n[images]\n"
        f'"docker.io/library/debian:12" = "{TWO}"\n'
        f'"docker.io/library/python:3.12" = "{ONE}"\n'
    )
    assert Lock.parse(Lock("x").text().encode(), "x") == Lock("x")


def test_what_people_write(tmp_path: Path) -> None:
    text = f"version = 1\nimages.'docker://python:3.12' = '{ONE}' # why\nimages.debian = '{TWO}'\n"
    lock = Lock.parse(text.encode(), "x")
    assert [name for name, _ in lock.images] == ["docker.io/library/debian:latest", "docker.io/library/python:3.12"]
    assert lock.digest_of(Reference.parse("docker://index.docker.io/library/python:3.12")) == ONE
    assert Lock.parse(b"version = 1\n", "x").images == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no version"),
        ("version = 2\n[images]\n", "version 2"),
        ("version = true\n", "version True"),
        ("version = '1'\n", "version '1'"),
        ("<<<<<<< HEAD\nversion = 1\n", "no TOML"),
        ("version = 1\nimages = 3\n", "no table"),
        ("version = 1\nimage = {}\n", "'image'"),
        (f"version = 1\n[images]\n'debian:12' = '{ONE}'\n'library/debian:12' = '{ONE}'\n", "debian:12 is there twice"),
        ("version = 1\n[images]\n'debian:12' = 3\n", "'debian:12': its digest is no string"),
        ("version = 1\n[images]\n'debian:12' = 'sha256:abc'\n", "'debian:12'.*64 digits"),
        ("version = 1\n[images]\n'debian:12' = 'md5:abc'\n", "'debian:12'.*md5"),
        (f"version = 1\n[images]\n'Debian:12' = '{ONE}'\n", "'Debian:12'.*upper case"),
        (f"version = 1\n[images]\n'oras://a/b' = '{ONE}'\n", "oras"),
        (f"version = 1\n[images]\n'debian:12@{ONE}' = '{ONE}'\n", "without a digest"),
        (BOTH.text() + f'"docker.io/library/debian:12" = "{ONE}"\n', "no TOML"),
        (BOTH.text().replace("debian", "\\u0064ebian:"), "'docker.io/library/debian::12'"),
        (BOTH.text().replace(str(TWO), str(TWO)[:-1]), "debian:12.*63 characters"),
        (BOTH.text()[:-10], "no TOML"),
        ("a = " + "[" * 100_000, "no TOML"),
        ("#" * (LIMIT + 1), "larger than 1 MiB"),
    ],
)
def test_damaged(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Lock.parse(text.encode(), "/some/hpcc.lock")
    assert caught.value.message.startswith("/some/hpcc.lock") and caught.value.hint


def test_not_utf8() -> None:
    with pytest.raises(SettingsError, match=r"/some/hpcc\.lock is not UTF-8"):
        Lock.parse(b"version = 1 # \xff", "/some/hpcc.lock")


def test_what_names_its_digest_is_not_locked() -> None:
    pinned = DEBIAN._replace(digest=ONE)
    assert BOTH.digest_of(pinned) is None
    with pytest.raises(UsageError, match="names its digest itself"):
        BOTH.with_(pinned, ONE)
    assert BOTH.without(pinned) == BOTH == BOTH.without(Reference.parse("other"))


# -- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o644), (0o077, 0o600)])
def test_write(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "hpcc.lock"
    before = os.umask(umask)
    try:
        write_lock(str(path), BOTH)
        write_lock(str(path), BOTH.without(DEBIAN))
    finally:
        os.umask(before)
    assert read_lock(str(path)) == BOTH.without(DEBIAN)._replace(path=str(path))
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["hpcc.lock"]


def test_a_write_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hpcc.lock"
    write_lock(str(path), BOTH)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=f"{path}: No space"):
        write_lock(str(path), Lock("x"))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["hpcc.lock"]
    with pytest.raises(CacheError, match="no/such"):
        write_lock(str(tmp_path / "no/such/hpcc.lock"), BOTH)


def test_too_many(tmp_path: Path) -> None:
    many = Lock("x", tuple((f"docker.io/library/a{number}:1", ONE) for number in range(12_000)))
    with pytest.raises(UsageError, match="12000 images"):
        write_lock(str(tmp_path / "hpcc.lock"), many)
    assert os.listdir(tmp_path) == []


def test_read_what_is_not_there(tmp_path: Path) -> None:
    assert read_lock(str(tmp_path / "x")) == Lock(str(tmp_path / "x"))
    with pytest.raises(SettingsError, match="directory"):
        read_lock(str(tmp_path))


# -- the search ----------------------------------------------------------------------------------------------------


class Skipped(dict[str, str]):
    """path -> why, as `on_skipped` was told."""

    def __call__(self, path: str, why: str) -> None:
        self[path] = why


def test_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    top, middle = tmp_path / "hpcc.lock", tmp_path / "a/hpcc.lock"
    write_lock(str(top), BOTH)
    assert find_lock(str(deep)) == BOTH._replace(path=str(top))
    write_lock(str(middle), BOTH.without(DEBIAN))
    found = find_lock(str(deep))
    assert found is not None and found.path == str(middle)
    assert found.digest_of(DEBIAN) is None  # the nearest one alone: files are not merged
    monkeypatch.chdir(deep)
    assert find_lock(".") == found
    deep.rmdir()
    assert find_lock(".") is None


def test_locked(tmp_path: Path) -> None:
    write_lock(str(tmp_path / "hpcc.lock"), BOTH)
    assert locked(DEBIAN, str(tmp_path)) == DEBIAN._replace(digest=TWO)
    assert str(locked(DEBIAN, str(tmp_path), frozen=True)) == f"docker://docker.io/library/debian:12@{TWO}"
    other = Reference.parse("other:1")
    assert locked(other, str(tmp_path)) == other
    with pytest.raises(UsageError, match=r"other:1 is not in .*/hpcc.lock") as caught:
        locked(other, str(tmp_path), frozen=True)
    assert caught.value.hint == "Pin it: hpcc lock docker://docker.io/library/other:1"
    own = DEBIAN._replace(digest=ONE)  # what is written out wins over the lock
    assert locked(own, str(tmp_path), frozen=True) == own


def test_frozen_without_any_lock(tmp_path: Path) -> None:
    if find_lock(str(tmp_path)) is not None:
        pytest.skip("there is an hpcc.lock above the directory of temporary files")
    assert locked(DEBIAN, str(tmp_path)) == DEBIAN
    with pytest.raises(UsageError, match=f"no hpcc.lock in {tmp_path}"):
        locked(DEBIAN, str(tmp_path), frozen=True)


def test_a_damaged_lock_of_ones_own_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "hpcc.lock").write_text("<<<<<<< HEAD\n")
    with pytest.raises(SettingsError, match=r"hpcc\.lock is no TOML"):
        locked(DEBIAN, str(tmp_path))
    (tmp_path / "hpcc.lock").write_bytes(b"#" * (LIMIT + 1000))
    with pytest.raises(SettingsError, match="larger than"):
        locked(DEBIAN, str(tmp_path))


def test_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    write_lock(str(tmp_path / "hpcc.lock"), BOTH)
    below = tmp_path / "below"
    below.mkdir()
    place = below / "hpcc.lock"
    for make in (
        lambda: place.symlink_to("../hpcc.lock"),
        lambda: place.symlink_to("/nonexistent"),
        lambda: place.symlink_to("hpcc.lock"),
        lambda: os.mkfifo(place),
        lambda: place.mkdir(),
    ):
        make()
        skipped = Skipped()
        found = find_lock(str(below), skipped)
        assert found is not None and found.path == str(tmp_path / "hpcc.lock")
        assert skipped == {str(place): "it is no regular file"}
        assert find_lock(str(below)) == found
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()


@pytest.mark.parametrize(("mode", "believed"), [(0o644, True), (0o664, True), (0o600, True), (0o646, False)])
def test_a_file_that_others_may_write(tmp_path: Path, mode: int, believed: bool) -> None:
    path = tmp_path / "hpcc.lock"
    write_lock(str(path), BOTH)
    path.chmod(mode)
    os.chown(path, -1, tmp_path.stat().st_gid)
    skipped = Skipped()
    found = find_lock(str(tmp_path), skipped)
    assert (found is not None and found.path == str(path)) is believed
    assert bool(skipped) is not believed


@pytest.mark.root
@pytest.mark.parametrize(
    ("directory", "file", "believed"),
    [  # owner, group and mode of both; the caller is root
        ((0, 0, 0o1777), (STRANGER, STRANGER, 0o644), False),  # /tmp
        ((0, 0, 0o1777), (0, 0, 0o644), True),
        ((0, 0, 0o755), (STRANGER, STRANGER, 0o644), False),
        ((STRANGER, STRANGER, 0o755), (STRANGER, STRANGER, 0o644), True),  # somebody's project
        ((STRANGER, STRANGER, 0o1777), (STRANGER, STRANGER, 0o644), False),
        ((STRANGER, STRANGER, 0o777), (STRANGER, STRANGER, 0o644), False),
        ((STRANGER, 77, 0o2775), (STRANGER + 1, 77, 0o664), False),
        ((STRANGER, 77, 0o2775), (STRANGER, 77, 0o664), True),
        ((STRANGER, 77, 0o2775), (STRANGER, 78, 0o664), False),
        ((STRANGER, 77, 0o2775), (STRANGER, 78, 0o644), True),
        ((65534, 65534, 0o755), (65534, 65534, 0o644), False),  # owners that NFS does not know
    ],
)
def test_whose_file(
    tmp_path: Path, directory: tuple[int, int, int], file: tuple[int, int, int], believed: bool
) -> None:
    write_lock(str(tmp_path / "hpcc.lock"), BOTH.without(PYTHON))
    place = tmp_path / "place"
    place.mkdir()
    path = place / "hpcc.lock"
    write_lock(str(path), BOTH)
    for name, (uid, gid, mode) in ((path, file), (place, directory)):
        os.chown(name, uid, gid)
        name.chmod(mode)
    skipped = Skipped()
    found = find_lock(str(place), skipped)
    assert found is not None
    assert found.path == str(path if believed else tmp_path / "hpcc.lock")
    assert list(skipped) == ([] if believed else [str(path)])
    path.write_text("rubbish")  # a stranger's cannot stop a job either
    if not believed:
        assert locked(DEBIAN, str(place), frozen=True).digest == TWO


@pytest.mark.root
def test_a_user_among_strangers(open_dir: Path) -> None:
    """As a plain user: one's own in a world-writable directory, root's, and what may not be read."""
    script = """
import os, sys
from hpcc.errors import HpccError
from hpcc.lockfile import find_lock
os.setgid(4242); os.setuid(4242)
skipped = []
try:
    found = find_lock(sys.argv[1], lambda path, why: skipped.append(path))
    print(found.path if found else None, len(skipped))
except HpccError as error:
    print(type(error).__name__, error.message)
"""
    place = open_dir / "place"
    place.mkdir()
    path = place / "hpcc.lock"
    for directory, uid, mode, said in (
        ((0, 0o1777), 4242, 0o644, f"{path} 0"),
        ((0, 0o1777), 0, 0o644, f"{path} 0"),
        ((0, 0o1777), STRANGER, 0o644, "None 1"),
        ((0, 0o1777), STRANGER, 0o600, "None 1"),
        ((STRANGER, 0o755), STRANGER, 0o644, f"{path} 0"),
        ((STRANGER, 0o755), STRANGER, 0o600, f"SettingsError {path} cannot be read: Permission denied"),
        ((STRANGER, 0o711), STRANGER, 0o644, f"{path} 0"),
        ((STRANGER, 0o700), STRANGER, 0o644, "None 0"),
    ):
        write_lock(str(path), BOTH)
        os.chown(path, uid, uid)
        path.chmod(mode)
        os.chown(place, directory[0], directory[0])
        place.chmod(directory[1])
        done = subprocess.run([sys.executable, "-c", script, place], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == said, (directory, uid, mode, done.stderr)


def test_the_warm_path_imports_little(tmp_path: Path) -> None:
    write_lock(str(tmp_path / "hpcc.lock"), BOTH)
    script = (
        "import sys; from hpcc.lockfile import locked; from hpcc.oci.reference import Reference\n"
        "print(locked(Reference.parse('debian:12'), sys.argv[1]).digest)\n"
        "print(*{'tomllib', 're', 'typing', 'json', 'secrets', 'hashlib'} & set(sys.modules))"
    )
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[2]); {script}"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([*argv, tmp_path, root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(TWO)]


# -- the images that a text names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ('container: "docker://quay.io/lab/tools:1.4"', ["quay.io/lab/tools:1.4"]),
        ("container: 'docker://debian'  # was docker://debian:11.", ["debian", "debian:11"]),
        ("hpcc exec docker://debian:12 cat", ["debian:12"]),
        ("{image: docker://debian:12}", ["debian:12"]),
        ("images: [docker://a/b, docker://c/d:1]", ["a/b", "c/d:1"]),
        ('["docker://[2001:db8::1]:5000/a:1"]', ["[2001:db8::1]:5000/a:1"]),
        (r'"{\"image\": \"docker://debian:12\"}"', ["debian:12"]),
        ("see `docker://debian:12`, (docker://debian:11).", ["debian:12", "debian:11"]),
        ("docker://debian:12; docker://debian:11, or docker://debian:10.", ["debian:12", "debian:11", "debian:10"]),
        (f"docker://debian@{ONE}", [f"debian@{ONE}"]),
        ("URIs that begin with docker:// are images", []),
        ("nothing", []),
    ],
)  # fmt: skip
def test_whole_uris(line: str, whole: list[str]) -> None:
    assert list(find_uris(line)) == [(f"docker://{name}", True) for name in whole]


@pytest.mark.parametrize(
    "line",
    [
        'f"docker://lab/{tool}:1"',
        '"docker://debian:" + version',
        '"docker://debian" + suffix',
        '"docker://lab/%s" % tool',
        '"docker://" + name',
        "docker://debian:$VERSION",
        "docker://${REGISTRY}/a",
        "docker://lab/`cat name`",
        "docker://lab/*",
        '"docker://lab/tools-" + v',
        "docker://<name>",
    ],
)
def test_parts_of_uris_are_not_guessed_at(line: str) -> None:
    assert [whole for _, whole in find_uris(line)] == [False]


@given(st.text("docker:/. []{}\"'a1@-_", max_size=60))
def test_any_text(text: str) -> None:
    for uri, whole in find_uris(f"docker://{text}"):
        assert uri.startswith("docker://")
        if whole:
            try:
                Reference.parse(uri)
            except HpccError:
                pass
