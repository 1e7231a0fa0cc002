"""What a download that broke off leaves, and who goes on from it."""

import os
import threading
from pathlib import Path

import pytest

from hpcc.cache.layout import Cache
from hpcc.cache.partial import partial
from hpcc.cache.temporary import PARTIAL_AGE, PARTIAL_SIZE, new_name, sweep
from hpcc.errors import CacheError, RegistryUnavailable
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import Descriptor
from hpcc.progress import Part
from hpcc.registry.download import fetch_blob
from hpcc.registry.fake import Faults
from hpcc.sources.growing import GrowingFile
from tests.support.people import Person
from tests.support.pulls import DIGESTS, LAYERS, Told, call_as, noise, pull

DATA = noise(3 * PARTIAL_SIZE, 7)
NAME = Digest.of(DATA)
pytestmark = pytest.mark.usefixtures("hpcc_env")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def begin(cache: Cache, data: bytes) -> None:
    """A try that breaks off after `data`."""
    with pytest.raises(RegistryUnavailable), partial(cache, NAME, len(DATA)) as begun:
        begun.file.write(data)
        begun.file.flush()
        raise RegistryUnavailable("broken off")


def names(cache: Cache) -> list[str]:
    return sorted(os.listdir(cache.path("tmp")))


def test_the_next_try_goes_on(cache: Cache) -> None:
    begin(cache, DATA[: 2 * PARTIAL_SIZE])
    assert ".partial.left-" in names(cache)[0]
    with partial(cache, NAME, len(DATA)) as (file, have):
        assert have == 2 * PARTIAL_SIZE and file.tell() == have
        assert names(cache) == [os.path.basename(file.name)]  # it has it for itself
        file.write(DATA[have:])
        path = cache.publish(file, cache.blob(NAME.algorithm, NAME.hex))
    assert Path(path).read_bytes() == DATA and names(cache) == []
    assert os.stat(path).st_mode & 0o777 == 0o444


def test_small_whole_and_useless_ones_go(cache: Cache) -> None:
    begin(cache, DATA[: PARTIAL_SIZE - 1])
    assert names(cache) == []
    begin(cache, DATA)  # whole, and not published: its bytes were wrong, or nobody keeps blobs
    assert names(cache) == []
    with pytest.raises(CacheError), partial(cache, NAME, len(DATA)) as begun:
        begun.file.write(DATA[:PARTIAL_SIZE])
        raise CacheError("the disk is full")
    assert names(cache) == []


def test_the_largest_is_taken_and_only_once(cache: Cache) -> None:
    begin(cache, DATA[:PARTIAL_SIZE])
    with partial(cache, NAME, len(DATA)) as first:
        assert first.have == PARTIAL_SIZE
        with partial(cache, NAME, len(DATA)) as second:  # a copy of what the first one has by now
            assert second.have == PARTIAL_SIZE and second.file.name != first.file.name
            second.file.write(b"x")
        assert os.pread(first.file.fileno(), 1, PARTIAL_SIZE) == b""


def test_another_blobs_is_not(cache: Cache) -> None:
    begin(cache, DATA[:PARTIAL_SIZE])
    with partial(cache, Digest.of(b"other"), len(DATA)) as other:
        assert other.have == 0


def test_one_of_a_process_that_died(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(cache, DATA[:PARTIAL_SIZE])
    (left,) = names(cache)
    host, *_ = new_name().rsplit("-", 3)
    for name in (f"{host}-999999999-1-aa", f"elsewhere.1-{os.getpid()}-1-bb"):
        os.rename(cache.path("tmp", left), cache.path("tmp", f"{left.partition('left-')[0]}{name}"))
        (left,) = names(cache)
        with partial(cache, NAME, len(DATA)) as found:
            assert found.have == PARTIAL_SIZE
            there = names(cache)
        if name.startswith("elsewhere"):  # perhaps it lives, on a host of which we see nothing
            assert left in there
        else:
            assert left not in there
            (left,) = [each for each in names(cache) if "left-" in each]


def test_links_are_not_followed(cache: Cache, tmp_path: Path) -> None:
    begin(cache, DATA[:PARTIAL_SIZE])
    (left,) = names(cache)
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    os.unlink(cache.path("tmp", left))
    os.symlink(secret, cache.path("tmp", left))
    with partial(cache, NAME, len(DATA)) as found:
        assert found.have == 0
    assert secret.read_bytes() == DATA


def test_a_hard_link_to_a_file_of_ours_is_left_alone(cache: Cache, tmp_path: Path) -> None:
    """Whoever may write to tmp/ could otherwise have us overwrite what is ours elsewhere."""
    results = tmp_path / "results.dat"
    results.write_bytes(DATA)
    cache.make_directory("tmp")
    os.link(results, cache.path("tmp", f"{NAME.algorithm}-{NAME.hex}.partial.left-00"))
    with partial(cache, NAME, len(DATA)) as found:
        assert found.have == 0
        found.file.write(b"layer")
    assert results.read_bytes() == DATA and results.stat().st_mode & 0o222


def test_they_are_swept_after_a_day(cache: Cache) -> None:
    begin(cache, DATA[:PARTIAL_SIZE])
    (left,) = names(cache)
    assert sweep(cache.path("tmp")) == 0
    old = os.stat(cache.path("tmp", left)).st_mtime - PARTIAL_AGE - 1
    os.utime(cache.path("tmp", left), (old, old))
    assert sweep(cache.path("tmp")) == 1 and names(cache) == []


@pytest.mark.root
def test_anothers_is_copied_if_they_are_trusted(open_dir: Path, plain_user: Person) -> None:
    """In a group's cache, with its sticky directories: the owner's file stays as it is."""
    root = open_dir / "cache"
    root.mkdir()
    os.chown(root, 0, plain_user.gid)
    root.chmod(0o3770)
    theirs = Cache(str(root), groups=("root",))

    def begin_as_them() -> int:
        begin(Cache(str(root)), DATA[: 2 * PARTIAL_SIZE])
        return os.getuid()

    uid = call_as(plain_user, begin_as_them)
    (left,) = names(theirs)
    with partial(theirs, NAME, len(DATA)) as found:
        assert found.have == 0  # a stranger's
    with partial(Cache(str(root), users=(plain_user.name,)), NAME, len(DATA)) as found:
        assert found.have == 2 * PARTIAL_SIZE
        assert os.fstat(found.file.fileno()).st_uid == os.getuid() != uid
    assert left in names(theirs)


# -- on the way of a pull --------------------------------------------------------------------------------------------


def test_a_cut_that_lasts_is_gone_on_from(fake, hpcc_env: Path) -> None:
    registry = fake(faults=Faults(truncate=-1, cut_at=1_500_000, no_range=True))
    with pytest.raises(RegistryUnavailable, match="only 1500000 of"):
        pull(registry, hpcc_env)
    (left,) = os.listdir(hpcc_env / "cache/tmp")
    assert left.startswith(DIGESTS[1].replace(":", "-"))
    registry.faults = Faults()
    told = Told()
    assert pull(registry, hpcc_env, told=told)
    assert os.listdir(hpcc_env / "cache/tmp") == [] and told.done == sum(map(len, LAYERS))


@pytest.mark.parametrize("wrong", [0, 1_200_000])
def test_bytes_that_are_wrong_cost_a_new_start_and_no_more(fake, hpcc_env: Path, wrong: int) -> None:
    """A partial whose bytes somebody changed: found out at the end, and fetched from the first byte."""
    registry = fake()
    Cache(str(hpcc_env / "cache")).make_directory("tmp")
    data = bytearray(LAYERS[1][:1_500_000])
    data[wrong] ^= 1
    name = DIGESTS[1].replace(":", "-") + ".partial.left-00"
    (hpcc_env / "cache/tmp" / name).write_bytes(data)
    image = pull(registry, hpcc_env)
    assert Path(image.path).read_bytes() == Path(pull(registry, hpcc_env / "b").path).read_bytes()
    assert os.listdir(hpcc_env / "cache/tmp") == []


def test_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    asked: list[int] = []

    class Pieces:
        """A blob in two pieces, as `place` gives it."""

        def __init__(self, offset: int) -> None:
            self.offset = offset

        def __enter__(self) -> "Pieces":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self):
            yield DATA[self.offset : self.offset + 10]
            yield DATA[self.offset + 10 :]

    def place(offset: int) -> Pieces:
        asked.append(offset)
        return Pieces(offset)

    path = tmp_path / "blob"
    path.write_bytes(DATA[:PARTIAL_SIZE])
    with open(path, "r+b") as file:
        file.seek(PARTIAL_SIZE)
        target = GrowingFile(file, Part(), PARTIAL_SIZE)
        verifier = Verifier(NAME, len(DATA))
        target.rehash(verifier)
        reader: list[bytes] = []
        thread = threading.Thread(target=lambda: reader.extend(target.chunks()))
        thread.start()
        fetch_blob([place], Descriptor("", NAME, len(DATA)), target, "", verifier)  # type: ignore[list-item]
        target.end()
        thread.join(30)
    assert asked == [PARTIAL_SIZE] and b"".join(reader) == DATA == path.read_bytes()


def test_a_file_that_was_cut_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"short")
    with open(path, "r+b") as file, pytest.raises(OSError, match="cut short"):
        GrowingFile(file, Part(), 100).rehash(Verifier(NAME))


def test_one_that_was_being_published(cache: Cache) -> None:
    """Killed between chmod and rename: it is read-only, and goes on all the same."""
    begin(cache, DATA[: 2 * PARTIAL_SIZE])
    (left,) = names(cache)
    os.chmod(cache.path("tmp", left), 0o444)
    with partial(cache, NAME, len(DATA)) as found:
        assert found.have == 2 * PARTIAL_SIZE
        found.file.write(DATA[found.have :])
