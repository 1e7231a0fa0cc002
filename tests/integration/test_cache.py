"""The cache on a real filesystem: layout, modes, trust, publishing, refs, one flight, the index, places that fail."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcc.cache import temporary
from hpcc.cache.blobs import read_blob
from hpcc.cache.contents import contents, remove
from hpcc.cache.flight import Tell, single_flight
from hpcc.cache.index import add_to_index, remove_missing
from hpcc.cache.layout import Cache, own_slot
from hpcc.cache.locking import Locking
from hpcc.cache.refs import Ref, read_ref, write_ref
from hpcc.cache.trust import NOBODY
from hpcc.errors import CacheError, LockTimeout
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference
from tests.support.people import Person
from tests.support.pulls import call_as, files_below

KEY = "ab" * 32
DIGEST = Digest.of(b"manifest")
STRANGER = 54321  # a uid that no user database has


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


@pytest.fixture
def group_cache(open_dir: Path, plain_user: Person) -> Path:
    """A cache of the plain user's group, as `hpcc cache init --group` makes it: 3770, owned by this process."""
    path = open_dir / "shared"
    path.mkdir()
    os.chown(path, -1, plain_user.gid)
    path.chmod(0o3770)
    return path


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def put(cache: Cache, path: str, data: bytes = b"data") -> Path:
    cache.write(path, data)
    return Path(path)


# -- layout ------------------------------------------------------------------------------------------------------


def test_nothing_is_made_by_looking(cache: Cache) -> None:
    assert cache.open(cache.sif(KEY)) is None
    assert cache.read(cache.pack("x"), 10) is None
    assert read_ref(cache, "r.example/a", "1") is None
    assert contents(cache) == []
    assert temporary.sweep(cache.path("tmp")) == 0
    remove_missing(cache)
    assert not os.path.exists(cache.root)


def test_layout_and_modes_of_ones_own(cache: Cache) -> None:
    before = os.umask(0)
    try:
        for path in (
            cache.sif(KEY),
            cache.pack("p"),
            cache.blob("sha256", "ff"),
            cache.tag("r.example/a/b", "1") + "/0",
        ):
            put(cache, path)
    finally:
        os.umask(before)
    assert sorted(files_below(Path(cache.root))) == [
        "oci/blobs/sha256/ff", "packs-v1/p", "refs/r.example/a/b/_tags/1/0", f"sif-v1/{KEY}.sif"
    ]  # fmt: skip
    for path in [Path(cache.root), *Path(cache.root).rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o444), path


@pytest.mark.root
def test_modes_of_a_groups_cache(group_cache: Path, plain_user: Person) -> None:
    def fill() -> None:
        os.umask(0o077)
        cache = Cache(str(group_cache))
        put(cache, cache.sif(KEY))
        put(cache, cache.blob("sha256", "ff"))
        cache.make_directory("locks")
        cache.make_directory("uses", KEY)

    call_as(plain_user, fill)
    modes = {str(path.relative_to(group_cache)): mode(path) for path in group_cache.rglob("*") if path.is_dir()}
    assert modes == {
        "tmp": 0o3770, "sif-v1": 0o3770, "oci": 0o2770, "oci/blobs": 0o3770, "oci/blobs/sha256": 0o3770,
        "locks": 0o2770, "uses": 0o3770, f"uses/{KEY}": 0o3770,
    }  # fmt: skip
    assert all(path.stat().st_gid == plain_user.gid for path in group_cache.rglob("*"))


# -- publishing --------------------------------------------------------------------------------------------------


def test_publish_is_whole_or_not_at_all(cache: Cache) -> None:
    path = cache.sif(KEY)
    with cache.temporary() as file:
        file.write(b"12")
        assert cache.open(path) is None
        assert mode(file.name) == 0o600
        assert cache.publish(file, path) == path
        assert cache.read(path, 10) == b"12"
    assert cache.read(path, 10) == b"12"
    assert cache.read(path, 1) is None  # beyond the limit
    assert os.listdir(cache.path("tmp")) == []


def test_ones_own_object_is_replaced_and_its_readers_keep_theirs(cache: Cache) -> None:
    put(cache, cache.sif(KEY), b"old")
    fd = cache.open(cache.sif(KEY))
    assert fd is not None
    put(cache, cache.sif(KEY), b"new")
    assert os.pread(fd, 10, 0) == b"old"
    os.close(fd)
    assert cache.read(cache.sif(KEY), 10) == b"new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_temporaries_go_with_an_exception(cache: Cache, error: BaseException) -> None:
    expected = CacheError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, cache.temporary() as file:
        file.write(b"x" * 100_000)
        raise error
    assert os.listdir(cache.path("tmp")) == []
    if isinstance(error, OSError):
        assert isinstance(caught.value, CacheError)
        assert "No space left" in caught.value.message and "hpcc cache clean" in caught.value.hint


def test_directory_in_the_objects_place(cache: Cache) -> None:
    cache.make_directory("sif-v1", f"{KEY}.sif")
    put(cache, cache.sif(KEY))
    assert os.path.isfile(own_slot(cache.sif(KEY)))
    assert cache.read(cache.sif(KEY), 10) == b"data"


def test_link_in_the_objects_place_is_replaced_not_followed(cache: Cache, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    cache.make_directory("sif-v1")
    os.symlink(precious, cache.sif(KEY))
    assert cache.open(cache.sif(KEY)) is None
    put(cache, cache.sif(KEY))
    assert precious.read_text() == "mine" and not os.path.islink(cache.sif(KEY))


@pytest.mark.parametrize("place", ["sif-v1", "uses", f"uses/{KEY}", "tmp"])
def test_link_on_the_way_is_refused(cache: Cache, tmp_path: Path, place: str) -> None:
    """A member who owns a directory of the cache has nothing of ours written to where he likes."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache.make_directory(*os.path.dirname(place).split("/")) if "/" in place else os.mkdir(cache.root)
    os.symlink(elsewhere, cache.path(place))
    cache.touch_use(KEY)  # never fails a run
    if place in ("sif-v1", "tmp"):
        with pytest.raises(CacheError, match=f"{place} is a link"):
            put(cache, cache.sif(KEY))
    assert os.listdir(elsewhere) == []


def test_many_threads_publish_one_name(cache: Cache) -> None:
    data = os.urandom(200_000)
    seen: list[bytes | None] = []

    def work() -> None:
        for _ in range(10):
            put(cache, cache.sif(KEY), data)
            seen.append(cache.read(cache.sif(KEY), 1 << 20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [data] * 40
    assert os.listdir(cache.path("tmp")) == [] and os.listdir(cache.path("sif-v1")) == [f"{KEY}.sif"]


def test_object_that_vanishes_is_a_miss(cache: Cache) -> None:
    path = put(cache, cache.sif(KEY))
    path.unlink()
    assert cache.open(cache.sif(KEY)) is None
    path.parent.rmdir()
    assert cache.open(cache.sif(KEY)) is None
    put(cache, cache.sif(KEY))  # and made again


# -- trust -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o664, 0o646, 0o622, 0o777])
def test_object_that_others_may_write_is_refused(cache: Cache, bits: int) -> None:
    path = put(cache, cache.sif(KEY))
    path.chmod(bits)
    assert cache.open(cache.sif(KEY)) is None
    path.chmod(0o644)
    assert cache.read(cache.sif(KEY), 10) == b"data"


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "socket"])
def test_only_regular_files_are_objects(cache: Cache, tmp_path: Path, kind: str) -> None:
    path = cache.path("sif-v1", "x.sif")
    cache.make_directory("sif-v1")
    target = put(cache, cache.sif(KEY))
    make: dict[str, Callable[[], None]] = {
        "symlink": lambda: os.symlink(target, path),
        "directory": lambda: os.mkdir(path),
        "fifo": lambda: os.mkfifo(path, 0o600),
        "socket": lambda: os.mknod(path, stat.S_IFSOCK | 0o600),
    }
    make[kind]()
    assert cache.open(path) is None  # and does not hang


@pytest.mark.root
@pytest.mark.parametrize("owner", [STRANGER, NOBODY])
def test_strangers_objects_are_refused(cache: Cache, owner: int) -> None:
    for path in (cache.sif(KEY), cache.pack("p"), cache.blob("sha256", DIGEST.hex)):
        put(cache, path)
        os.chown(path, owner, -1)
        assert cache.open(path) is None
    write_ref(cache, "r.example/a", "1", _ref())
    os.chown(cache.tag("r.example/a", "1") + f"/{os.getuid()}", owner, -1)
    assert read_ref(cache, "r.example/a", "1") is None


@pytest.mark.root
def test_owner_of_the_cache_is_trusted_but_never_nobody(cache: Cache) -> None:
    put(cache, cache.sif(KEY))
    for owner, trusted in ((STRANGER, True), (NOBODY, False)):
        os.chown(cache.root, owner, -1)
        os.chown(cache.sif(KEY), owner, -1)
        assert (Cache(cache.root).read(cache.sif(KEY), 10) == b"data") is trusted


@pytest.mark.root
def test_named_users_and_members_of_named_groups(cache: Cache, plain_user: Person) -> None:
    import grp

    put(cache, cache.sif(KEY))
    os.chown(cache.sif(KEY), plain_user.uid, 0)
    group = grp.getgrgid(plain_user.gid).gr_name
    for users, groups, trusted in (
        ((), (), False),
        ((plain_user.name,), (), True),
        (("somebody", "else"), ("no such group",), False),
        ((), (group,), True),
        ((), ("root",), False),
    ):
        assert (Cache(cache.root, users, groups).open(cache.sif(KEY)) is not None) is trusted, (users, groups)
    # The file's own group, which its owner may choose, says nothing.
    os.chown(cache.sif(KEY), STRANGER, plain_user.gid)
    assert Cache(cache.root, (), (group,)).open(cache.sif(KEY)) is None


@pytest.mark.root
def test_policy_file_of_the_owner_is_believed(cache: Cache, plain_user: Person) -> None:
    put(cache, cache.sif(KEY))
    os.chown(cache.sif(KEY), plain_user.uid, 0)
    policy = Path(cache.path("policy.toml"))
    policy.write_text(f'trusted_users = ["{plain_user.name}"]\n')
    policy.chmod(0o644)

    def trusted() -> bool:
        return Cache(cache.root).open(cache.sif(KEY)) is not None

    assert trusted()
    policy.chmod(0o664)  # others could have written it
    assert not trusted()
    policy.chmod(0o644)
    os.chown(policy, plain_user.uid, -1)  # the stranger's own word
    assert not trusted()
    os.chown(policy, 0, -1)
    assert trusted()
    for text in ('trusted_users = "hpcc-test"', "trusted_users = [1]", "trusted_groups = {}", "=", "\xff"):
        policy.write_text(text, encoding="latin-1")
        with pytest.raises(CacheError, match=r"policy\.toml does not parse") as caught:
            trusted()
        assert caught.value.hint
    policy.unlink()
    os.symlink("/etc/passwd", policy)
    assert not trusted()
    policy.unlink()
    os.mkfifo(policy)
    assert not trusted()  # and does not hang


@pytest.mark.root
def test_trust_is_of_the_file_that_was_opened(cache: Cache, tmp_path: Path) -> None:
    """Whoever made the name, the owner of what lies behind it counts."""
    path = put(cache, cache.sif(KEY))
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"evil")
    os.chown(stranger, STRANGER, -1)
    path.unlink()
    os.link(stranger, path)
    assert cache.open(cache.sif(KEY)) is None


@pytest.mark.root
def test_occupied_name_means_a_slot_of_ones_own(group_cache: Path, plain_user: Person) -> None:
    """In a sticky directory nobody can replace what an untrusted member put there first."""
    owner = Cache(str(group_cache))
    put(owner, owner.sif(KEY), b"evil")
    os.chown(owner.sif(KEY), STRANGER, -1)

    def as_user() -> tuple[bytes | None, str, bytes | None, list[str]]:
        cache = Cache(str(group_cache))
        before = cache.read(cache.sif(KEY), 10)
        with cache.temporary() as file:
            file.write(b"good")
            path = cache.publish(file, cache.sif(KEY))
        return before, path, cache.read(cache.sif(KEY), 10), os.listdir(cache.path("tmp"))

    before, path, after, left = call_as(plain_user, as_user)
    assert before is None
    assert path == str(group_cache / "sif-v1" / f"{KEY}.{plain_user.uid}.sif")
    assert (after, left) == (b"good", [])
    assert call_as(plain_user, as_user)[0] == b"good"  # found again, and replaced
    assert sorted(os.listdir(group_cache / "sif-v1")) == [f"{KEY}.{plain_user.uid}.sif", f"{KEY}.sif"]


@pytest.mark.root
def test_occupied_by_somebody_trusted_stays(group_cache: Path, plain_user: Person) -> None:
    owner = Cache(str(group_cache))
    put(owner, owner.sif(KEY), b"first")

    def as_user() -> tuple[str, bytes | None, list[str], str]:
        cache = Cache(str(group_cache))
        with cache.temporary() as file:
            file.write(b"later")
            path = cache.publish(file, cache.sif(KEY))
        kept = cache.read(cache.sif(KEY), 10)
        with cache.temporary() as file:
            file.write(b"mine")
            beside = cache.publish(file, cache.sif(KEY), beside=True)
        return path, kept, os.listdir(cache.path("tmp")), beside

    path, kept, left, beside = call_as(plain_user, as_user)
    assert (path, kept, left) == (owner.sif(KEY), b"first", [])
    assert Path(beside).read_bytes() == b"mine"

    def each() -> list[bytes]:
        cache = Cache(str(group_cache))
        return [open(fd, "rb").read() for fd in cache.open_each(cache.sif(KEY))]

    assert call_as(plain_user, each) == [b"first", b"mine"]


def test_beside_nobody_else_there_is_no_slot(tmp_path: Path) -> None:
    """A name that was purged a moment ago is free, and a file of one's own makes room."""
    cache = Cache(str(tmp_path / "cache"))
    for content in (b"first", b"second"):
        with cache.temporary() as file:
            file.write(content)
            assert cache.publish(file, cache.sif(KEY), beside=True) == cache.sif(KEY)
        assert Path(cache.sif(KEY)).read_bytes() == content
    assert len(os.listdir(os.path.dirname(cache.sif(KEY)))) == 1


# -- refs --------------------------------------------------------------------------------------------------------


def _ref(name: str = "r.example/a:1", checked_at: float = 0, data: bytes = b"manifest") -> Ref:
    return Ref(name, str(Digest.of(data)), "type", 8, checked_at or time.time())


def test_ref_round_trip(cache: Cache) -> None:
    ref = _ref()
    write_ref(cache, "r.example/a", "1", ref)
    assert read_ref(cache, "r.example/a", "1") == ref
    assert read_ref(cache, "r.example/a", "2") is None
    newer = _ref(checked_at=time.time() + 1, data=b"other")
    write_ref(cache, "r.example/a", "1", newer)
    assert read_ref(cache, "r.example/a", "1") == newer


def test_ref_under_another_name_is_refused(cache: Cache) -> None:
    """Somebody who may not write refs of ours can still link one of them to another tag."""
    write_ref(cache, "r.example/a", "1", _ref())
    own = cache.tag("r.example/a", "1") + f"/{os.getuid()}"
    for name, tag in (("r.example/a", "2"), ("r.example/b", "1"), ("r.example/a/b", "1")):
        directory = cache.make_directory("refs", name, "_tags", tag)
        os.link(own, f"{directory}/{os.getuid()}")
        assert read_ref(cache, name, tag) is None
    directory = cache.make_directory("refs/r.example/c/_tags/1")
    os.symlink(own, f"{directory}/{os.getuid()}")
    assert read_ref(cache, "r.example/c", "1") is None


@pytest.mark.root
def test_newest_ref_of_a_trusted_owner(group_cache: Path, plain_user: Person) -> None:
    cache = Cache(str(group_cache), (plain_user.name,))
    now = time.time()
    write_ref(cache, "r.example/a", "1", _ref(checked_at=now - 50, data=b"old"))

    def write(at: float, data: bytes) -> Callable[[], None]:
        return lambda: write_ref(Cache(str(group_cache)), "r.example/a", "1", _ref(checked_at=at, data=data))

    call_as(plain_user, write(now - 20, b"new"))
    found = read_ref(cache, "r.example/a", "1")
    assert found is not None and found.digest == str(Digest.of(b"new"))
    stranger = Cache(str(group_cache))  # who trusts root and the owner only
    found = read_ref(stranger, "r.example/a", "1")
    assert found is not None and found.digest == str(Digest.of(b"old"))
    # A clock a day ahead must not win for a day.
    call_as(plain_user, write(now + 86400, b"ahead"))
    found = read_ref(cache, "r.example/a", "1")
    assert found is not None and found.digest == str(Digest.of(b"old"))


@pytest.mark.root
def test_ref_under_ones_own_number_by_somebody_else(group_cache: Path, plain_user: Person) -> None:
    """A member takes the name that our ref would have: ours stands beside it and is found."""
    owner = Cache(str(group_cache))
    directory = owner.make_directory("refs/r.example/a/_tags/1")
    taken = Path(directory, str(plain_user.uid))
    taken.write_bytes(b"{}")
    os.chown(taken, STRANGER, -1)

    def as_user() -> tuple[Any, ...] | None:
        cache = Cache(str(group_cache))
        write_ref(cache, "r.example/a", "1", _ref(checked_at=5))
        found = read_ref(cache, "r.example/a", "1")
        return None if found is None else tuple(found)

    assert call_as(plain_user, as_user) == tuple(_ref(checked_at=5))
    assert taken.read_bytes() == b"{}"


# -- one flight --------------------------------------------------------------------------------------------------


def test_one_works_and_the_others_look(cache: Cache) -> None:
    done: list[str] = []
    told: list[str] = []
    results: list[str] = []

    def work(tell: Tell) -> str:
        tell("half")
        time.sleep(0.3)
        put(cache, cache.sif(KEY), b"result")
        done.append("work")
        return "worked"

    def look() -> str | None:
        return "found" if os.path.exists(cache.sif(KEY)) else None

    def fly() -> None:
        results.append(single_flight(cache, KEY, look, work, Locking(wait=10), on_wait=told.append))

    threads = [threading.Thread(target=fly) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["work"] and sorted(results) == ["found"] * 4 + ["worked"]
    assert len(told) == 4 and all(f"process {os.getpid()}" in holder for holder in told)


def test_next_in_line_takes_over_after_a_failure(cache: Cache) -> None:
    order: list[str] = []

    def fail(tell: Tell) -> str:
        order.append("fails")
        time.sleep(0.2)
        raise ValueError("broken")

    def run() -> None:
        with pytest.raises(ValueError, match="broken"):
            single_flight(cache, KEY, lambda: None, fail, Locking(wait=10))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.05)
    assert (
        single_flight(cache, KEY, lambda: None, lambda tell: order.append("works") or "done", Locking(wait=10))
        == "done"
    )
    thread.join()
    assert order == ["fails", "works"]


def test_wait_that_runs_out(cache: Cache) -> None:
    held, over = threading.Event(), threading.Event()

    def hold(tell: Tell) -> str:
        held.set()
        over.wait(10)
        return "x"

    thread = threading.Thread(target=lambda: single_flight(cache, KEY, lambda: None, hold, Locking(wait=1)))
    thread.start()
    held.wait(5)
    try:
        with pytest.raises(LockTimeout) as caught:
            single_flight(cache, KEY, lambda: None, lambda tell: "never", Locking(wait=0.2))
        assert caught.value.exit_code == 75 and "HPCC_LOCK_WAIT" in caught.value.hint
        assert f"process {os.getpid()}" in caught.value.message
        assert single_flight(cache, "another name", lambda: None, lambda tell: "free", Locking(wait=0)) == "free"
    finally:
        over.set()
        thread.join()


def test_killed_holder_loses_its_lock(cache: Cache) -> None:
    script = (
        "import sys, time; from hpcc.cache.flight import single_flight; from hpcc.cache.layout import Cache\n"
        "from hpcc.cache.locking import Locking\n"
        "def work(tell): print('held', flush=True); time.sleep(60)\n"
        "single_flight(Cache(sys.argv[1]), 'n', lambda: None, work, Locking(wait=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, cache.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert single_flight(cache, "n", lambda: None, lambda tell: "mine", Locking(wait=5)) == "mine"


@pytest.mark.root
def test_cache_without_locks_still_works(group_cache: Path, plain_user: Person) -> None:
    (group_cache / "locks").mkdir(mode=0o700)  # the user can make none
    cache = Cache(str(group_cache))
    for kind in ("flock", "lease", "auto"):
        locking = Locking(kind, wait=0)
        assert call_as(plain_user, lambda: single_flight(cache, "n", lambda: None, lambda _: "done", locking)) == "done"  # noqa: B023


@pytest.mark.root
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
def test_a_members_trap_in_locks_harms_nobody(group_cache: Path, plain_user: Person, tmp_path: Path, kind: str) -> None:
    """locks/ is everybody's: a note for waiters must not be written through somebody's link."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    cache = Cache(str(group_cache))
    single_flight(cache, "n", lambda: None, lambda tell: "x", Locking(wait=0))
    (note,) = (group_cache / "locks").glob("*.who")
    note.unlink()
    {"symlink": lambda: os.symlink(precious, note), "hardlink": lambda: os.link(precious, note),
     "fifo": lambda: os.mkfifo(note)}[kind]()  # fmt: skip
    assert single_flight(cache, "n", lambda: None, lambda tell: "x", Locking(wait=0)) == "x"
    assert precious.read_text() == "mine"
    assert note.is_file() and "process" in note.read_text()


# -- the index ---------------------------------------------------------------------------------------------------


def _image(cache: Cache, *layers: bytes) -> Digest:
    entries = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(Digest.of(data)), "size": len(data)}
        for data in layers
    ]
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": entries}).encode()
    for data in (manifest, b"{}", *layers):
        cache.write(cache.blob("sha256", Digest.of(data).hex), data)
    return Digest.of(manifest)


def _entries(cache: Cache) -> list[str]:
    document = json.loads(Path(cache.path("oci/index.json")).read_bytes())
    assert document["schemaVersion"] == 2
    return [each["annotations"]["org.opencontainers.image.ref.name"] for each in document["manifests"]]


def test_index_holds_what_is_whole(cache: Cache) -> None:
    first, second = _image(cache, b"1", b"2"), _image(cache, b"2", b"3")
    for name, digest in (("a:1", first), ("b:1", second), ("a:1", second), ("a:1", second)):
        add_to_index(cache, Reference.parse(f"r.example/{name}"), digest, "")
    assert _entries(cache) == ["r.example/b:1", "r.example/a:1"]
    os.unlink(cache.blob("sha256", Digest.of(b"1").hex))
    add_to_index(cache, Reference.parse("r.example/c:1"), first, "")  # not whole
    assert _entries(cache) == ["r.example/b:1", "r.example/a:1"]
    add_to_index(cache, Reference.parse("r.example/d:1"), Digest.of(b"none such"), "")
    os.unlink(cache.blob("sha256", Digest.of(b"3").hex))
    remove_missing(cache)
    assert _entries(cache) == []


def test_contents_and_remove(cache: Cache) -> None:
    digest = _image(cache, b"layer")
    add_to_index(cache, Reference.parse("r.example/a:1"), digest, "")
    put(cache, cache.sif(KEY), b"sif")
    put(cache, cache.pack("p"), b"pack")
    found = contents(cache)
    assert sorted(item.kind for item in found) == ["blob"] * 3 + ["pack", "sif"]
    os.utime(cache.sif(KEY), (1, 1))
    cache.touch_use(KEY)
    (sif,) = (item for item in contents(cache) if item.kind == "sif")
    assert sif.made == 1 and sif.used > time.time() - 60 and sif.owner == os.getuid()
    count, size = remove(cache, found)
    assert (count, size) == (5, sum(item.size for item in found))
    assert remove(cache, found) == (0, 0)
    assert contents(cache) == [] and _entries(cache) == []


def test_read_blob_hashes_again(cache: Cache, tmp_path: Path) -> None:
    other = Cache(str(tmp_path / "library"))
    digest = Digest.of(b"good")
    assert read_blob((cache, other), digest) is None
    put(cache, cache.blob("sha256", digest.hex), b"evil")
    assert read_blob((cache, other), digest) is None
    put(other, other.blob("sha256", digest.hex), b"good")
    assert read_blob((cache, other), digest) == b"good"


# -- uses --------------------------------------------------------------------------------------------------------


def test_use_is_touched_once_an_hour(cache: Cache) -> None:
    path = Path(cache.path("uses", KEY, str(os.getuid())))
    cache.touch_use(KEY)
    os.utime(path, (1000, time.time() - 600))
    cache.touch_use(KEY)
    assert path.stat().st_mtime < time.time() - 500
    os.utime(path, (1000, time.time() - 4000))
    cache.touch_use(KEY)
    assert path.stat().st_mtime > time.time() - 10


def test_use_is_not_noted_through_a_link(cache: Cache, tmp_path: Path) -> None:
    directory = cache.make_directory("uses", KEY)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    os.utime(precious, (1000, 1000))
    os.symlink(precious, f"{directory}/{os.getuid()}")
    cache.touch_use(KEY)
    assert precious.stat().st_mtime == 1000
    precious.unlink()
    cache.touch_use(KEY)
    assert not precious.exists()


# -- temporaries -------------------------------------------------------------------------------------------------


def _abandon(cache: Cache, hold: bool) -> "subprocess.Popen[str]":
    script = (
        "import sys, time; from hpcc.cache.layout import Cache\n"
        "with Cache(sys.argv[1]).temporary() as file:\n"
        "    file.write(b'x' * 1000); file.flush(); print('made', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, cache.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    if not hold:
        process.kill()
        process.wait()
    return process


def test_sweep_takes_what_killed_processes_left_and_nothing_else(cache: Cache) -> None:
    dead = _abandon(cache, hold=False)
    live = _abandon(cache, hold=True)
    try:
        foreign = ["other-host.4026531836-1-1-abcdef012345", "no temporary", "a-b-c-d", f"{'x' * 200}-1-1-1"]
        for name in foreign:
            Path(cache.path("tmp", name)).touch()
        with cache.temporary() as own:
            assert len(os.listdir(cache.path("tmp"))) == 3 + len(foreign)
            assert temporary.sweep(cache.path("tmp")) == 1
            assert os.path.exists(own.name)
        left = set(os.listdir(cache.path("tmp"))) - set(foreign)
        assert len(left) == 1 and f"-{live.pid}-" in left.pop()
        assert temporary.sweep(cache.path("tmp")) == 0
    finally:
        live.kill()
        live.wait()
        for process in (dead, live):
            assert process.stdout is not None
            process.stdout.close()


def test_process_that_got_a_dead_ones_number(cache: Cache) -> None:
    name = temporary.new_name()
    head, pid, start, tail = name.rsplit("-", 3)
    assert not temporary.is_abandoned(name)
    assert temporary.is_abandoned(f"{head}-{pid}-{int(start) - 1}-{tail}")
    assert not temporary.is_abandoned(f"{head}0-{pid}-{int(start) - 1}-{tail}")


def test_what_proc_hides_is_not_gone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """proc(5), hidepid: of other users' processes there is no /proc/PID, yet they live, and kill(2) says EPERM."""
    name = temporary.new_name()
    head, _, start, tail = name.rsplit("-", 3)
    monkeypatch.setattr(temporary, "_start", lambda pid: -1)
    assert not temporary.is_abandoned(name)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not temporary.is_abandoned(f"{head}-1-{start}-{tail}")
    monkeypatch.undo()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert temporary.is_abandoned(f"{head}-{gone.pid}-{start}-{tail}")
    assert not temporary.is_abandoned(f"{head}-²-{start}-{tail}")


@pytest.mark.root
def test_processes_of_another_pid_namespace_are_not_taken_for_dead(cache: Cache) -> None:
    """A job with a pid namespace of its own numbers its processes differently, on the same host."""
    live = _abandon(cache, hold=True)
    try:
        script = "import sys; from hpcc.cache.temporary import sweep; print(sweep(sys.argv[1]))"
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script, cache.path("tmp")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    finally:
        live.kill()
        live.wait()
        assert live.stdout is not None
        live.stdout.close()


# -- places that fail --------------------------------------------------------------------------------------------


def _in_mount_namespace(directory: Path, mount: str, script: str, *argv: str) -> "subprocess.CompletedProcess[str]":
    """A Python script, as root, with `mount` done where nobody else sees it."""
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-euc", f'{mount}; exec "$@"', "sh", sys.executable, "-c",
         script, *argv],
        cwd=directory, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


_WRITE = """
import os, sys
from hpcc.cache.layout import Cache
from hpcc.errors import CacheError
cache = Cache(sys.argv[1])
try:
    cache.write(cache.sif("k"), os.urandom(int(sys.argv[2])))
    print("written")
except CacheError as error:
    print(error.message, "|", error.hint)
print(*(name for _, _, names in os.walk(sys.argv[1]) for name in names))
"""


@pytest.mark.root
def test_full_disk(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for size, says in (("10000", "written\nk.sif\n"), ("900000", "No space left on device | Free some space")):
        done = _in_mount_namespace(
            tmp_path, "mount -t tmpfs -o size=500k tmpfs cache", _WRITE, str(tmp_path / "cache"), size
        )
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    assert done.stdout.endswith("\n\n")  # no file is left


@pytest.mark.root
def test_read_only_filesystem(tmp_path: Path) -> None:
    for made in (False, True):
        (tmp_path / "site").mkdir(exist_ok=True)
        if made:
            put(Cache(str(tmp_path / "site/cache")), str(tmp_path / "site/cache/sif-v1/k.sif"))
        done = _in_mount_namespace(
            tmp_path, "mount --bind site site; mount -o remount,ro,bind site", _WRITE, str(tmp_path / "site/cache"), "9"
        )
        assert done.returncode == 0, done.stderr
        assert "Read-only file system | The cache is read-only here" in done.stdout
        assert done.stdout.endswith("k.sif\n" if made else "\n\n")


@pytest.mark.root
def test_directory_of_somebody_else(open_dir: Path, plain_user: Person) -> None:
    (open_dir / "cache").mkdir(mode=0o755)

    def write() -> str:
        try:
            Cache(str(open_dir / "cache")).write(str(open_dir / "cache/sif-v1/k.sif"), b"x")
        except CacheError as error:
            return f"{error.message} | {error.hint}"
        return "written"

    said = call_as(plain_user, write)
    assert "Permission denied" in said and "HPCC_CACHE_DIR" in said
    Cache(str(open_dir / "cache")).touch_use(KEY)  # never fails, here or there
    call_as(plain_user, lambda: Cache(str(open_dir / "cache")).touch_use("k2"))


@pytest.mark.parametrize("unnamed", [True, False])
def test_what_is_published_outlives_its_temporary(cache: Cache, monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    """Also where the filesystem has no files without a name (NFS)."""
    real = os.open

    def refuse(path: str, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **options)

    if not unnamed:
        monkeypatch.setattr(os, "open", refuse)
    data = os.urandom(3 << 20)
    with cache.temporary() as file:
        file.write(data)
        os.unlink(file.name)
        path = cache.publish(file, cache.sif(KEY))
    assert Path(path).read_bytes() == data and stat.S_IMODE(os.stat(path).st_mode) == 0o444
    assert os.listdir(cache.path("tmp")) == []


def test_a_directory_that_is_removed_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch is purged at any moment: what was made a moment ago may be gone when its child is."""
    cache = Cache(str(tmp_path / "cache"))
    made, real = [], os.mkdir

    def mkdir(path: str, *rest: int, **options: int) -> None:
        if path.endswith("sha256") and len(made) < 3:
            made.append(path)
            os.rmdir(os.path.dirname(path))
        real(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert os.path.isdir(cache.make_directory("oci", "blobs", "sha256")) and len(made) == 3
