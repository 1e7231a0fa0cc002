"""Garbage collection on a real filesystem: what goes and what stays, two users in one group, and those with traps."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from hpcc.cache import trash, walk
from hpcc.cache.collect import Collection, collect
from hpcc.cache.contents import contents, is_in_charge, remove
from hpcc.cache.gc import Policy
from hpcc.cache.init import init_group_cache
from hpcc.cache.layout import MAX_WRITERS, Cache
from hpcc.cache.needs import read_needs
from hpcc.cache.pins import pin, pins_of, read_pins, unpin
from hpcc.cache.refs import Ref, read_ref, write_ref
from hpcc.cache.residue import tidy
from hpcc.cache.roots import prune_roots, read_roots, register_root, rooted_keys
from hpcc.cache.temporary import new_name
from hpcc.copy import copy_image
from hpcc.errors import CacheError
from hpcc.image import open_image
from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry
from tests.support.people import Person
from tests.support.pulls import LAYERS, call_as, config_of, files_below, pull, settings_of, tar_layer, uri_of

DAY = 86400.0
GRACE = 8 * DAY
KEY = "ab" * 32
STRANGER = 54321  # a uid that no user database has
MakeFake = Callable[..., FakeRegistry]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """The cache into which `pull(registry, tmp_path)` pulls."""
    return Cache(str(tmp_path / "cache"))


@pytest.fixture
def group_cache(open_dir: Path, plain_user: Person) -> Path:
    """A cache of the plain user's group, owned by this process."""
    import grp

    return Path(init_group_cache(str(open_dir / "shared"), grp.getgrgid(plain_user.gid).gr_name).path)


@pytest.fixture
def members_cache(open_dir: Path, plain_user: Person) -> Path:
    """A cache of that group, owned by the plain user, who has no privileges."""
    import grp

    path = open_dir / "theirs"
    path.mkdir()
    os.chown(path, plain_user.uid, plain_user.gid)
    call_as(plain_user, lambda: init_group_cache(str(path), grp.getgrgid(plain_user.gid).gr_name))
    return path


@pytest.fixture
def stranger(plain_user: Person, open_dir: Path) -> Person:
    """Another member, as far as the kernel is concerned."""
    home = open_dir / "stranger"
    home.mkdir(mode=0o700)
    return Person("nobody-knows", STRANGER, plain_user.gid, home).at(home)


def age(cache: Cache, days: float, *tops: str) -> None:
    """Have everything below these directories be so many days old."""
    then = time.time() - days * DAY
    for top in tops or ("",):
        for directory, names, found in os.walk(cache.path(top), topdown=False):
            for name in (*names, *found):
                os.utime(os.path.join(directory, name), (then, then), follow_symlinks=False)


def put(cache: Cache, path: str, data: bytes = b"data", days: float = 100) -> Path:
    cache.write(path, data)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return Path(path)


def gone(done: Collection) -> list[str]:
    return [f"{each.item.kind} {each.item.name}" for each in done.removed]


def kinds(cache: Cache) -> list[str]:
    return sorted(item.kind for item in contents(cache))


def key_of(cache: Cache) -> str:
    (name,) = (item.key for item in contents(cache) if item.kind == "sif")
    return name


# -- what goes ---------------------------------------------------------------------------------------------------


def test_nothing_is_made_by_looking(cache: Cache) -> None:
    done = collect(cache, Policy(GRACE, 1, 1))
    assert (done.removed, done.refused, done.left, done.trash) == ((), (), (), (0, 0))
    assert read_pins(cache) == {} and read_roots(cache) == ()
    assert not os.path.exists(cache.root)


def test_an_image_with_all_that_belongs_to_it(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    pull(fake(index=True), tmp_path)
    assert kinds(cache) == ["blob"] * 5 + ["pack"] * 2 + ["sif"]  # index, manifest, config, two layers
    (needs,) = read_needs(cache, contents(cache)).values()
    assert (len(needs.documents), len(needs.savings)) == (3, 4)
    assert collect(cache, Policy(GRACE, DAY, 1)).removed == ()  # all is young
    age(cache, 20)
    assert collect(cache, Policy(GRACE)).removed == ()  # and needed
    done = collect(cache, Policy(GRACE, 0, 1), dry_run=True)
    assert len(done.removed) == 8 and kinds(cache) == ["blob"] * 5 + ["pack"] * 2 + ["sif"]
    sif = next(item.size for item in contents(cache) if item.kind == "sif")
    assert [name.split()[0] for name in gone(collect(cache, Policy(GRACE, 0, sif + 100_000)))] == [
        "blob", "blob", "pack", "pack"
    ]  # fmt: skip
    assert collect(cache, Policy(GRACE, 0, sif + 100_000)).removed == ()
    assert [name.split()[0] for name in gone(collect(cache, Policy(GRACE, 10 * DAY)))] == ["sif"] + ["blob"] * 3
    assert contents(cache) == []


def test_an_image_that_stays_is_found_without_asking(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    registry = fake(index=True)
    pull(registry, tmp_path)
    age(cache, 100, "oci", "packs-v1", "sif-v1")
    pin(cache, key_of(cache))
    collect(cache, Policy(GRACE, DAY, 1))
    assert kinds(cache) == ["blob"] * 3 + ["sif"]
    asked = len(registry.requests)
    pull(registry, tmp_path)
    assert len(registry.requests) == asked


def test_signatures_of_what_stays_stay(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    pull(fake(index=True), tmp_path)
    (needs,) = read_needs(cache, contents(cache)).values()
    for signed in (*sorted(needs.documents), "00" * 32):
        payload = f"payload of {signed}".encode()
        layer = {"mediaType": "x", "digest": str(Digest.of(payload)), "size": len(payload)}
        config = {"mediaType": "x", "digest": str(Digest.of(b"{}")), "size": 2}
        manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
        for data in (payload, b"{}", manifest):
            cache.write(cache.blob("sha256", Digest.of(data).hex), data)
        ref = Ref(f"r.example/a:sha256-{signed}.sig", str(Digest.of(manifest)), "", len(manifest), time.time())
        write_ref(cache, "r.example/a", f"sha256-{signed}.sig", ref)
    age(cache, 100)
    done = collect(cache, Policy(GRACE))
    assert len(done.removed) == 2  # the manifest and the payload of what is not here
    assert len(list(Path(cache.path("refs/r.example/a/_tags")).iterdir())) == 3


def test_what_other_images_share_stays(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    registry = fake()
    pull(registry, tmp_path)
    layers = [LAYERS[0], tar_layer({"other": b"1"})]
    registry.add_image("group/tools", "2", layers, config_of(layers))
    age(cache, 100)
    image = open_image(uri_of(registry, "2"), settings_of(tmp_path))
    os.close(image.rootfs.fd)
    collect(cache, Policy(GRACE, 50 * DAY))
    names = set(os.listdir(cache.path("oci/blobs/sha256")))
    assert len(names) == 4 and Digest.of(LAYERS[0]).hex in names and Digest.of(LAYERS[1]).hex not in names
    assert len(os.listdir(cache.path("packs-v1"))) == 2


def test_a_use_keeps_it_and_one_through_a_link_too(cache: Cache) -> None:
    for key in (KEY, "cd" * 32, "ef" * 32):
        put(cache, cache.sif(key))
    cache.touch_use(KEY)
    cache.make_directory("uses", "cd" * 32)
    os.symlink("/nonexistent", cache.path("uses", "cd" * 32, "77"))  # young itself
    assert gone(collect(cache, Policy(GRACE, DAY))) == [f"sif {'ef' * 32}"]


def test_running_readers_keep_their_file_and_it_can_be_put_back(cache: Cache) -> None:
    put(cache, cache.sif(KEY), b"image")
    fd = cache.open(cache.sif(KEY))
    assert fd is not None
    collect(cache, Policy(GRACE, DAY))
    assert os.pread(fd, 10, 0) == b"image" and cache.open(cache.sif(KEY)) is None
    (name,) = os.listdir(cache.path("trash"))
    assert name.endswith(f".sif-v1%2F{KEY}.sif")
    os.rename(cache.path("trash", name), cache.sif(KEY))
    assert cache.read(cache.sif(KEY), 10) == b"image"
    os.close(fd)


def test_the_trash_is_emptied_by_a_later_one_after_the_grace_time(cache: Cache) -> None:
    for number in range(3):
        put(cache, cache.sif(f"{number}" * 64))
    assert collect(cache, Policy(GRACE, DAY)).trash == (3, 12)
    assert collect(cache, Policy(GRACE, DAY)).emptied.files == 0
    now = time.time()
    for name, new in zip(
        sorted(os.listdir(cache.path("trash"))), (now - 9 * DAY, now - 7 * DAY, now + DAY), strict=True
    ):
        os.rename(cache.path("trash", name), cache.path("trash", f"{new:.0f}.{name.split('.', 1)[1]}"))
    assert collect(cache, Policy(GRACE), dry_run=True).emptied.files == 1
    assert collect(cache, Policy(GRACE)).emptied == walk.Cleared(1, 4, 0)
    assert collect(cache, Policy(0)).emptied.files == 2  # what claims to come from the future too
    assert os.listdir(cache.path("trash")) == []


def test_many_at_once(cache: Cache) -> None:
    for number in range(40):
        put(cache, cache.sif(f"{number:064x}"))
    results: list[Collection] = []
    threads = [threading.Thread(target=lambda: results.append(collect(cache, Policy(GRACE, 0, 80)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and sum(len(done.removed) for done in results) == 20
    assert [item.name for item in contents(cache)] == [f"{number:064x}" for number in range(20, 40)]


def test_one_that_is_used_while_gc_runs_stays_with_its_documents(
    fake: MakeFake, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(fake(), tmp_path)
    age(cache, 100)
    from hpcc.cache import collect as module

    plan_gc = module.plan_gc

    def plan_while_a_run_starts(*arguments: object) -> object:
        plan = plan_gc(*arguments)  # type: ignore[arg-type]
        cache.touch_use(key_of(cache))
        return plan

    monkeypatch.setattr(module, "plan_gc", plan_while_a_run_starts)
    done = collect(cache, Policy(GRACE, 0, 1))
    assert {name.split()[0] for name in gone(done)} == {"blob", "pack"}
    assert kinds(cache) == ["blob", "blob", "sif"]


# -- pins and roots ----------------------------------------------------------------------------------------------


def test_pins(cache: Cache) -> None:
    put(cache, cache.sif(KEY))
    pin(cache, KEY, "for the paper\n\x1b[1m")
    pin(cache, KEY, "for the paper\n\x1b[1m")
    ((found,),) = read_pins(cache).values()
    assert found.uid == os.getuid() and found.note == "for the paper[1m" and abs(found.time - time.time()) < 60
    assert collect(cache, Policy(GRACE, DAY, 1)).removed == ()
    assert unpin(cache, KEY) and not unpin(cache, KEY)
    assert read_pins(cache) == {} and len(collect(cache, Policy(GRACE, DAY)).removed) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"time":"x","note":[]}', b'{"time":1e999,"note":3}', b"[" * 3000])
def test_a_damaged_pin_still_protects(cache: Cache, data: bytes) -> None:
    put(cache, cache.sif(KEY))
    put(cache, cache.path("pins", KEY, "4711"), data)
    (found,) = pins_of(cache, KEY)
    assert found.time == 0.0
    assert collect(cache, Policy(GRACE, DAY, 1)).removed == ()


def test_roots_protect_as_long_as_they_are_that_image(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    registry = fake()
    image = open_image(uri_of(registry), settings_of(tmp_path))
    copied, linked = tmp_path / "copy.simg", tmp_path / "link.simg"
    copy_image(image, str(copied), replace=False)
    os.close(image.rootfs.fd)
    os.symlink(cache.sif(image.key), linked)
    for path in (copied, linked):
        register_root(cache, str(path), image.key)
        register_root(cache, str(path), image.key)
    age(cache, 100)
    policy = Policy(GRACE, DAY)
    assert [root.path for root in read_roots(cache)] == [str(copied), str(linked)]
    for last in (copied, linked):
        assert list(rooted_keys(cache)) == [image.key]
        assert "sif" not in {each.item.kind for each in collect(cache, policy).removed}
        last.unlink()
    assert rooted_keys(cache) == {} and [root.path for root in read_roots(cache)] == [str(linked)]
    assert "sif" in {each.item.kind for each in collect(cache, policy).removed}
    assert read_roots(cache) == ()


def test_a_root_that_is_another_file_now_or_hidden_or_a_trap(fake: MakeFake, tmp_path: Path, cache: Cache) -> None:
    pull(fake(), tmp_path)
    key = key_of(cache)
    places = {name: tmp_path / name for name in ("text", "fifo", "directory", "loop")}
    places["text"].write_text("no image")
    os.mkfifo(places["fifo"])
    places["directory"].mkdir()
    os.symlink("loop", places["loop"])
    for path in (*places.values(), Path("/dev/null"), Path("/dev/tty"), tmp_path / ("n" * 300)):
        register_root(cache, str(path), key)
    assert rooted_keys(cache) == {}
    assert prune_roots(cache, before=time.time() + 60).files == len(places) + 3


@pytest.mark.root
def test_a_root_that_one_may_not_look_into_counts(members_cache: Path, plain_user: Person, tmp_path: Path) -> None:
    cache = Cache(str(members_cache))
    register_root(cache, str(tmp_path / "closed/x.simg"), KEY)
    tmp_path.chmod(0o700)
    assert list(call_as(plain_user, lambda: rooted_keys(Cache(str(members_cache))))) == [KEY]


# -- what is left over -------------------------------------------------------------------------------------------


def test_gc_leaves_no_residue(cache: Cache) -> None:
    now = time.time()
    digest = Digest.of(b"gone")
    write_ref(cache, "r.example/a/b", "1", Ref("r.example/a/b:1", str(digest), "", 4, now))
    kept = Digest.of(b"kept")
    put(cache, cache.blob("sha256", kept.hex), b"kept", days=1)
    write_ref(cache, "r.example/a", "1", Ref("r.example/a:1", str(kept), "", 4, now))
    put(cache, cache.path("limits/docker.io/anonymous/1"), days=0)
    cache.touch_use(KEY)
    cache.make_directory("locks")
    for name in ("f" * 32, "f" * 32 + ".who", "e" * 32 + ".lease60", "coherent"):
        put(cache, cache.path("locks", name), days=0)
    for name in ("other-host.1-2-3-abc", "sha256-ff.partial.left-abc"):
        put(cache, cache.path("tmp", name), bytes(1 << 20), days=0)
    register_root(cache, "/nonexistent/x", KEY)
    before = sorted(files_below(Path(cache.root)))
    collect(cache, Policy(GRACE))
    assert sorted(files_below(Path(cache.root))) == before  # all of it is young
    age(cache, 9, "refs", "limits", "uses", "locks", "tmp", "roots")
    done = collect(cache, Policy(GRACE), dry_run=True)
    assert sorted(files_below(Path(cache.root))) == before
    tidied = collect(cache, Policy(GRACE)).tidied
    assert {kind: each.files for kind, each in tidied.items()} == {
        "temporaries": 2, "refs": 1, "limits": 1, "locks": 3, "uses": 1, "pins": 0, "roots": 1,
    }  # fmt: skip
    assert {kind: each.files for kind, each in done.tidied.items()} == {
        kind: each.files for kind, each in tidied.items()
    }
    left = {str(path.relative_to(cache.root)) for path in Path(cache.root).rglob("*") if path.is_file()}
    assert left == {f"oci/blobs/sha256/{kept.hex}", f"refs/r.example/a/_tags/1/{os.getuid()}", "locks/coherent"}
    assert read_ref(cache, "r.example/a", "1") is not None
    assert not os.path.exists(cache.path("refs/r.example/a/b")) and os.listdir(cache.path("uses")) == []


def test_a_lock_that_somebody_holds_stays(cache: Cache) -> None:
    cache.make_directory("locks")
    for name in ("held", "held.who", "free", "free.who"):
        put(cache, cache.path("locks", name))
    script = ("import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX)\n"
              "print('held', flush=True); sys.stdin.read()")  # fmt: skip
    os.chmod(cache.path("locks/held"), 0o660)
    with subprocess.Popen(
        [sys.executable, "-c", script, cache.path("locks/held")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert tidy(cache, GRACE)["locks"].files == 2
        assert sorted(os.listdir(cache.path("locks"))) == ["held", "held.who"]
        process.communicate("")
    assert tidy(cache, GRACE)["locks"].files == 2


def test_temporaries_of_live_processes_stay_whatever_the_grace_time(cache: Cache) -> None:
    for name in (new_name(), "other-host.1-2-3-abc"):
        put(cache, cache.path("tmp", name), days=0.5)
    assert tidy(cache, 0)["temporaries"].files == 0
    assert len(os.listdir(cache.path("tmp"))) == 2


# -- two users ---------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_the_owner_collects_what_members_made(members_cache: Path, plain_user: Person, stranger: Person) -> None:
    def fill() -> None:
        cache = Cache(str(members_cache))
        put(cache, cache.sif(KEY))
        put(cache, cache.pack("sha256-d-c"))
        put(cache, cache.blob("sha256", "ff" * 32))
        put(cache, cache.path("tmp/other-host.1-2-3-abc"))

    call_as(stranger, fill)

    def gc() -> tuple[int, int, tuple[object, ...]]:
        done = collect(Cache(str(members_cache)), Policy(GRACE, DAY))
        return len(done.removed), done.tidied["temporaries"].files, done.refused

    assert call_as(plain_user, gc) == (3, 1, ())
    assert len(os.listdir(members_cache / "trash")) == 3

    def empty() -> int:
        return collect(Cache(str(members_cache)), Policy(0)).emptied.files

    assert call_as(plain_user, empty) == 3
    assert os.listdir(members_cache / "trash") == []


@pytest.mark.root
def test_a_member_removes_nothing_of_anybody_else(group_cache: Path, plain_user: Person) -> None:
    cache = Cache(str(group_cache))
    put(cache, cache.sif(KEY))
    put(cache, cache.pack("sha256-d-c"))
    put(cache, cache.path("locks", "f" * 32))
    write_ref(cache, "r.example/a", "1", Ref("r.example/a:1", str(Digest.of(b"")), "", 0, 0))
    trash.discard(cache, os.path.relpath(put(cache, cache.sif("cd" * 32)), cache.root), 0)
    register_root(cache, "/nonexistent", KEY)
    age(cache, 50, "refs", "roots")

    def gc() -> tuple[list[str], object]:
        mine = Cache(str(group_cache))
        put(mine, mine.sif("ef" * 32))
        assert not is_in_charge(mine)
        done = collect(mine, Policy(GRACE, DAY, 1))
        return gone(done), done.refused

    before = files_below(group_cache)
    assert call_as(plain_user, gc) == ([f"sif {'ef' * 32}"], ())
    after = files_below(group_cache)
    assert {name: after.get(name) for name in before} == before
    assert len(os.listdir(group_cache / "locks")) == 1


@pytest.mark.root
def test_a_member_pins_for_all(group_cache: Path, plain_user: Person) -> None:
    cache = Cache(str(group_cache))
    put(cache, cache.sif(KEY))
    call_as(plain_user, lambda: pin(Cache(str(group_cache)), KEY, "mine"))
    assert [each.uid for each in pins_of(cache, KEY)] == [plain_user.uid]
    assert not unpin(cache, KEY)
    assert collect(cache, Policy(GRACE, DAY, 1)).removed == ()


@pytest.mark.root
def test_where_the_kernel_refuses_the_rest_is_done(open_dir: Path, plain_user: Person, stranger: Person) -> None:
    """A cache that was not made by init: its directories belong to whoever came first."""
    path = open_dir / "shared"
    path.mkdir()
    os.chown(path, plain_user.uid, plain_user.gid)
    path.chmod(0o3770)

    def fill(key: str) -> Callable[[], object]:
        return lambda: put(Cache(str(path)), Cache(str(path)).sif(key))

    call_as(stranger, fill(KEY))
    call_as(plain_user, fill("cd" * 32))

    def gc() -> tuple[list[str], list[str]]:
        done = collect(Cache(str(path)), Policy(GRACE, DAY))
        return gone(done), [f"{item.name} {why}" for item, why in done.refused]

    assert call_as(plain_user, gc) == ([f"sif {'cd' * 32}"], [f"{KEY} Operation not permitted"])


# -- traps -------------------------------------------------------------------------------------------------------


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A home of the collector's, old enough for everything."""
    home = tmp_path / "precious"
    for name in ("notes", "sif-v1/x.sif", "blobs/sha256/" + "ff" * 32, "sha256/x", f"{KEY}/1", "_tags/1/1000"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    (home / "empty").mkdir()
    for directory, names, found in os.walk(home):
        for name in (*names, *found):
            os.utime(os.path.join(directory, name), (1000, 1000))
    return home


SEEN = ("sif-v1", "packs-v1", "oci/blobs", "refs", "uses")


@pytest.mark.root
@pytest.mark.parametrize(
    "place",
    ["sif-v1", "sif-v1/x.sif", "packs-v1", "oci/blobs", "oci/blobs/sha256", "refs", "refs/r.example", f"uses/{KEY}",
     "uses", f"pins/{KEY}", "roots/abc", "limits/docker.io", "locks", "locks/x", "tmp", "tmp/x", "trash",
     "trash/1.abc.x"],
)  # fmt: skip
def test_a_planted_link_is_never_followed(group_cache: Path, precious: Path, place: str) -> None:
    """Each place, even those that a member could not replace: the collector has all rights here."""
    cache = Cache(str(group_cache))
    put(cache, cache.sif("cd" * 32))
    target = group_cache / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        os.rename(target, f"{target}.away")
    os.symlink(precious, target)
    os.utime(target, (1000, 1000), follow_symlinks=False)
    before = sorted(path for path in precious.rglob("*"))
    for policy in (Policy(GRACE, DAY, 1), Policy(0, DAY, 1)) * 2:
        # Where a whole part of the cache cannot be seen, nothing goes.
        with pytest.raises(CacheError) if place in (*SEEN, "trash") else nullcontext():
            collect(cache, policy)
    remove(cache, contents(cache))
    assert sorted(path for path in precious.rglob("*")) == before
    assert all(path.is_dir() or path.read_text() == "mine" for path in before)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["hardlink", "fifo", "directory", "full directory", "socket"])
def test_what_is_no_object_goes_without_harm(group_cache: Path, tmp_path: Path, kind: str) -> None:
    cache = Cache(str(group_cache))
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for place in ("sif-v1/x.sif", "packs-v1/x", "oci/blobs/sha256/x", "tmp/x", "trash/1.abc.x", "locks/x", "refs/x"):
        path = group_cache / place
        if kind == "hardlink":
            try:
                os.link(mine, path)
            except OSError:
                pytest.skip("another filesystem")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            path.mkdir()
            if kind == "full directory":
                (path / "inner").mkdir()
                (path / "inner/file").write_text("x")
        os.utime(path, (1000, 1000))
    for _ in range(2):
        collect(cache, Policy(GRACE, DAY, 1))
    collect(cache, Policy(0, DAY, 1))
    assert mine.read_text() == "mine"
    if kind != "full directory" and kind != "directory":
        assert contents(cache) == [] and trash.held(cache) == (0, 0)


@pytest.mark.root
def test_a_directory_swapped_between_look_and_removal(
    group_cache: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oci/ is everybody's to rename in."""
    cache = Cache(str(group_cache))
    put(cache, cache.blob("sha256", "ff" * 32))
    from hpcc.cache import collect as module

    plan_gc = module.plan_gc

    def plan_while_a_member_swaps(*arguments: object) -> object:
        plan = plan_gc(*arguments)  # type: ignore[arg-type]
        assert len(plan) == 1
        os.rename(group_cache / "oci/blobs", group_cache / "oci/away")
        os.symlink(precious / "blobs", group_cache / "oci/blobs")
        return plan

    monkeypatch.setattr(module, "plan_gc", plan_while_a_member_swaps)
    done = collect(cache, Policy(GRACE))
    assert done.removed == () and len(done.refused) == 1
    assert (precious / "blobs/sha256" / ("ff" * 32)).read_text() == "mine"


@pytest.mark.root
def test_records_of_strangers_can_only_protect(group_cache: Path, stranger: Person) -> None:
    cache = Cache(str(group_cache))
    put(cache, cache.sif(KEY), days=1)
    pin(cache, KEY)

    def lie() -> None:
        own = Cache(str(group_cache))
        for name in ("uses", "pins", "roots"):
            for key in (KEY, "..", "cd" * 32):
                try:
                    own.make_directory(name, key)
                    Path(own.path(name, key, str(STRANGER))).write_text(
                        json.dumps({"path": "/", "key": KEY, "time": -1})
                    )
                    os.utime(own.path(name, key, str(STRANGER)), (1, 1))
                except OSError:
                    continue

    call_as(stranger, lie)
    assert collect(cache, Policy(GRACE, 10 * DAY, 1)).removed == ()
    assert [item.key for item in contents(cache)] == [KEY] and os.getuid() in {each.uid for each in pins_of(cache, KEY)}


def test_an_image_that_was_imported_and_not_run_yet_stays(fake: MakeFake, hpcc_env: Path) -> None:
    """On a cluster without a network it could not be had again. --days and --max-size may take it."""
    registry = fake(index=True)
    pull(registry, hpcc_env)
    cache = Cache(str(hpcc_env / "cache"))
    for path in (*(hpcc_env / "cache/sif-v1").iterdir(), *(hpcc_env / "cache/packs-v1").iterdir()):
        path.unlink()
    month_ago = time.time() - 30 * 86400
    for path in (hpcc_env / "cache/oci/blobs").rglob("*"):
        os.utime(path, (month_ago, month_ago))
    assert collect(cache, Policy(8 * 86400.0)).removed == ()
    assert open_image(uri_of(registry), settings_of(hpcc_env, HPCC_OFFLINE="1")).key
    for path in (*(hpcc_env / "cache/sif-v1").iterdir(), *(hpcc_env / "cache/packs-v1").iterdir()):
        path.unlink()
    gone = collect(cache, Policy(8 * 86400.0, max_age=20 * 86400.0)).removed
    assert {removal.item.kind for removal in gone} == {"blob"} and len(gone) == 2 + 1 + len(LAYERS)


def test_what_index_json_names_stays(fake: MakeFake, hpcc_env: Path) -> None:
    """An archive's image without a name has no ref."""
    pull(fake(index=True), hpcc_env)
    cache = Cache(str(hpcc_env / "cache"))
    for directory in ("refs", "sif-v1", "packs-v1"):
        shutil.rmtree(hpcc_env / "cache" / directory)
    age(cache, 30)
    assert collect(cache, Policy(GRACE)).removed == () and kinds(cache) == ["blob"] * 5
    (hpcc_env / "cache/oci/index.json").unlink()
    assert len(collect(cache, Policy(GRACE)).removed) == 5


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("place", ["sif-v1", "oci", "refs", "uses", "x.sif"])
def test_where_the_filesystem_fails_nothing_goes(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    """What cannot be read is not taken for what is not there: it may be what needs all the rest."""
    put(cache, cache.sif("cd" * 32))
    os.rename(cache.sif("cd" * 32), cache.path("sif-v1/x.sif"))
    put(cache, cache.blob("sha256", "ab" * 32))
    for directory in ("refs", "uses"):
        cache.make_directory(directory)
    age(cache, 30)
    before, real = kinds(cache), os.open

    def fail(path: object, *args: object, **options: object) -> int:
        if path == place:
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(CacheError, match=re.escape(os.strerror(number))):
        collect(cache, Policy(0, DAY, 1))
    monkeypatch.undo()
    assert kinds(cache) == before == ["blob", "sif"]


def test_a_file_of_holes_counts_for_what_it_takes(cache: Cache) -> None:
    path = Path(cache.sif("cd" * 32))
    put(cache, str(path))
    path.chmod(0o644)
    os.truncate(path, 1 << 40)
    assert sum(item.size for item in contents(cache)) < 1 << 20


def test_each_writers_use_counts(cache: Cache) -> None:
    """However many others plant files beside it."""
    put(cache, cache.sif(KEY))
    age(cache, 30)
    cache.make_directory("uses", KEY)
    for number in range(MAX_WRITERS + 5):
        os.close(os.open(cache.path("uses", KEY, str(number)), os.O_CREAT | os.O_WRONLY))
        os.utime(cache.path("uses", KEY, str(number)), (1000, 1000))
    for name in os.listdir(cache.path("uses", KEY))[-1:]:
        os.utime(cache.path("uses", KEY, name))
    assert collect(cache, Policy(GRACE, DAY)).removed == ()
