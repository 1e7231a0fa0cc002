"""hpcc cache verify: what was changed in a cache is found, and repaired where one may; what is sound stays."""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcc.cache.layout import Cache
from hpcc.checking import Report, check_cache, mend_all, select
from hpcc.errors import ImageNotFound, UnsupportedImage
from hpcc.layout import write_layout
from hpcc.lookup import Wanted
from hpcc.registry.fake import FakeRegistry
from hpcc.squashfs.compression import LZ4, decompressor
from tests.support.pulls import LAYERS, NAME, Told, config_of, files_below, pull, settings_of, tar_layer
from tests.support.pulls import uri_of as uri

pytestmark = pytest.mark.usefixtures("hpcc_env")


def check(home: Path, *uris: str, **environ: str) -> Report:
    chosen, told = settings_of(home, **environ), Told()
    selections = tuple(select(Wanted.parse(each, chosen), chosen) for each in uris)
    report = check_cache(Cache(chosen.cache_dir), chosen, told, selections)
    assert told.done == report.size
    return report


def mend(home: Path, report: Report) -> None:
    assert mend_all(Cache(str(home / "cache")), report.findings) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


@pytest.fixture
def filled(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> FakeRegistry:
    """Two images that share a layer; the second has text, which compresses, and a fragment block."""
    registry = fake(index=True)
    more = [LAYERS[0], tar_layer({"t": b"some text. " * 60_000, "u": b"short"})]
    registry.add_image(NAME, "2", more, config_of(more))
    pull(registry, hpcc_env)
    pull(registry, hpcc_env, tag="2")
    return registry


def one(home: Path, kind: str, rank: int = 0) -> Path:
    """The largest, second largest, … object of a kind."""
    place = {"sif": "sif-v1", "pack": "packs-v1", "blob": "oci/blobs/sha256"}[kind]
    return sorted((home / "cache" / place).iterdir(), key=lambda path: -path.stat().st_size)[rank]


def test_what_is_sound_is_left_alone(filled: FakeRegistry, hpcc_env: Path) -> None:
    before = files_below(hpcc_env / "cache")
    report = check(hpcc_env)
    assert report.findings == () and report.objects == 2 + 3 + (3 + 2 + 3)
    assert files_below(hpcc_env / "cache") == before


@pytest.mark.parametrize("kept", ["all", "packs", "blobs", "none"])
@pytest.mark.parametrize("kind", ["sif", "pack", "blob"])
def test_a_changed_byte_is_found(filled: FakeRegistry, hpcc_env: Path, kind: str, kept: str) -> None:
    """In whatever place of an object. In data that are stored as they are, as long as the layers are kept."""
    if kept in ("packs", "none"):
        for digest in {path.name for path in (hpcc_env / "cache/oci/blobs/sha256").iterdir()}:
            path = hpcc_env / "cache/oci/blobs/sha256" / digest
            if path.stat().st_size > 20_000:
                path.unlink()
    if kept in ("blobs", "none"):
        shutil.rmtree(hpcc_env / "cache/packs-v1")
    if kind == "pack" and kept in ("blobs", "none"):
        return
    report = check(hpcc_env)
    assert {each.kind for each in report.findings} <= {"index"}
    path = one(hpcc_env, kind, 1 if kind == "sif" else 0)
    size = path.stat().st_size
    luck = random.Random(f"{kind} {kept}")
    stored_ok = kept != "none" and not (kind == "pack" and kept == "packs")
    places = [luck.randrange(size) for _ in range(6)] if stored_ok else [size - 3]
    if kind == "sif" and not stored_ok:
        places = [50]  # of the header: the version's numbers, the architecture
    for at in places:
        flip(path, at)
        found = {each.path: each.said for each in check(hpcc_env).findings if each.kind == kind}
        assert list(found) == [str(path.relative_to(hpcc_env / "cache"))] or (kind == "sif" and not stored_ok), at
        flip(path, at)


def test_where_nobody_can_tell_which_is_damaged_neither_stays(filled: FakeRegistry, hpcc_env: Path) -> None:
    """A changed bit in a stored block of a pack whose layer is gone: the SIF made from it must not be thought worse."""
    pack, sif = one(hpcc_env, "pack"), one(hpcc_env, "sif")
    one(hpcc_env, "blob").unlink()
    flip(pack, 20_000)
    report = check(hpcc_env)
    assert [each.path.rpartition("/")[2] for each in report.findings if each.kind in ("sif", "pack")] == [
        sif.name,
        pack.name,
    ]
    mend(hpcc_env, report)
    assert check(hpcc_env).findings == ()
    pull(filled, hpcc_env)
    assert check(hpcc_env).findings == ()


def test_text_is_read_where_nothing_else_is_kept(filled: FakeRegistry, hpcc_env: Path) -> None:
    shutil.rmtree(hpcc_env / "cache/packs-v1")
    shutil.rmtree(hpcc_env / "cache/oci")
    path = next(path for path in (hpcc_env / "cache/sif-v1").iterdir() if b"hsqs" in path.read_bytes()[:65536])
    assert check(hpcc_env).findings == ()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 5000)
    (found,) = check(hpcc_env).findings
    assert found.kind == "sif" and "cut short" in found.said


def test_repair(filled: FakeRegistry, hpcc_env: Path) -> None:
    """What is damaged goes to the trash, and is made or fetched anew by whoever needs it, with the same bytes."""
    before = files_below(hpcc_env / "cache")
    flip(one(hpcc_env, "sif"), 20_000)
    flip(one(hpcc_env, "pack"), 20_000)
    flip(one(hpcc_env, "blob", 1), 20_000)
    report = check(hpcc_env)
    assert [each.kind for each in report.findings] == ["blob", "pack", "sif"]
    assert {each.owner for each in report.findings} == {os.getuid()}
    mend(hpcc_env, report)
    assert len(os.listdir(hpcc_env / "cache/trash")) == 3
    assert check(hpcc_env).findings == ()
    filled.counts.clear()
    pull(filled, hpcc_env)
    assert not filled.counts["blob_get"] and not filled.counts["manifest_get"]  # the blob is not needed for a SIF
    write_layout(Wanted.parse(uri(filled), settings_of(hpcc_env)), settings_of(hpcc_env), str(hpcc_env / "out"), Told(),
                 replace=False)  # fmt: skip
    assert filled.counts["blob_get"] == 1
    after = files_below(hpcc_env / "cache")
    for name in before:
        if name.startswith(("sif", "packs")):
            assert after[name] == before[name]
    assert check(hpcc_env).findings == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"manifests": 3}', b'{"manifests": [{"digest": "x"}]}'])
def test_index_json_is_made_anew(filled: FakeRegistry, hpcc_env: Path, content: bytes) -> None:
    path = hpcc_env / "cache/oci/index.json"
    names = named(path)
    path.chmod(0o644)
    path.write_bytes(content)
    report = check(hpcc_env)
    assert [each.kind for each in report.findings] == ["index"]
    mend(hpcc_env, report)
    assert check(hpcc_env).findings == ()
    assert named(path) == names and len(names) == 2


def named(index: Path) -> set[str]:
    entries = json.loads(index.read_bytes())["manifests"]
    return {each["annotations"]["org.opencontainers.image.ref.name"] for each in entries}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": 1}', None])
def test_refs(filled: FakeRegistry, hpcc_env: Path, content: bytes | None) -> None:
    """Those that say nothing, or stand in another tag's place."""
    tags = hpcc_env / "cache/refs" / filled.host / NAME / "_tags"
    path = tags / "1" / str(os.getuid())
    path.chmod(0o644)
    path.write_bytes((tags / "2" / str(os.getuid())).read_bytes() if content is None else content)
    report = check(hpcc_env)
    assert [each.kind for each in report.findings] == ["ref"]
    mend(hpcc_env, report)
    assert check(hpcc_env).findings == () and not path.exists()


def test_of_one_image(filled: FakeRegistry, hpcc_env: Path) -> None:
    flip(next(path for path in (hpcc_env / "cache/packs-v1").iterdir() if path.stat().st_size > 2_000_000), 20_000)
    assert check(hpcc_env, uri(filled, "2")).findings == ()
    assert [each.kind for each in check(hpcc_env, uri(filled)).findings] == ["pack"]
    # Also a SIF that does not even say any more what it is.
    whole = check(hpcc_env, uri(filled))
    assert whole.objects == 1 + 2 + (2 + 1 + 2)
    for path in (hpcc_env / "cache/sif-v1").iterdir():
        path.chmod(0o644)
        path.write_bytes(b"")
    assert [each.kind for each in check(hpcc_env, uri(filled, "2")).findings] == ["sif"]
    with pytest.raises(ImageNotFound):
        check(hpcc_env, uri(filled, "3"))


def test_odd_things(filled: FakeRegistry, hpcc_env: Path) -> None:
    """Links, pipes, names that are none: found, and nobody hangs."""
    cache = hpcc_env / "cache"
    shutil.copy(one(hpcc_env, "sif"), cache / "sif-v1" / f"{'0' * 64}.sif")
    (cache / "oci/blobs/sha256" / ("1" * 64)).symlink_to("/etc/passwd")
    os.mkfifo(cache / "oci/blobs/sha256" / ("2" * 64))
    (cache / "packs-v1/odd").write_text("x")
    (cache / "oci/blobs/sha256/odd").write_text("x")
    (cache / "sif-v1" / f"{'3' * 64}.sif").write_bytes(b"hsqs" + bytes(200))
    report = check(hpcc_env)
    assert len(report.findings) == 6, report.findings
    mend(hpcc_env, report)
    assert check(hpcc_env).findings == () and Path("/etc/passwd").exists()


def test_what_vanishes_is_no_finding(filled: FakeRegistry, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcc import checking

    real = checking.problem_of

    def vanish(bench: Any, item: Any) -> str:
        os.unlink(item.path)
        return real(bench, item)

    monkeypatch.setattr(checking, "problem_of", vanish)
    chosen = settings_of(hpcc_env)
    report = check_cache(Cache(chosen.cache_dir), chosen)
    assert {each.kind for each in report.findings} <= {"index"}


def test_what_others_own_stays(filled: FakeRegistry, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(one(hpcc_env, "blob"), 5)
    report = check(hpcc_env)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert mend_all(Cache(str(hpcc_env / "cache")), report.findings) == list(report.findings)
    assert one(hpcc_env, "blob").exists()


def test_what_cannot_be_read_stays(filled: FakeRegistry, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment is no reason to throw away what is on it."""

    def fail(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("hpcc.checking.problem_of", fail)
    before = files_below(hpcc_env / "cache")
    report = check(hpcc_env)
    objects = [each for each in report.findings if each.kind in ("sif", "pack", "blob")]
    assert len(objects) == report.objects and "Input/output error" in objects[0].said
    assert not any(each.damaged for each in objects)
    assert mend_all(Cache(str(hpcc_env / "cache")), report.findings) == list(report.findings)
    assert files_below(hpcc_env / "cache") == before


@pytest.mark.parametrize("name", ["x", "a-b", "sha256-zz-hpcc-1", f"sha256-{'a' * 64}-x", f"sha256-{'a' * 64}-hpcc-1"])
def test_odd_packs_are_findings(filled: FakeRegistry, hpcc_env: Path, name: str) -> None:
    pack = one(hpcc_env, "pack")
    shutil.copy(pack, pack.with_name(name))
    assert [each.path for each in check(hpcc_env).findings] == [f"packs-v1/{name}"]


def test_an_empty_cache(hpcc_env: Path) -> None:
    assert check(hpcc_env) == Report(str(hpcc_env / "cache"), 0, 0, ())


def test_what_this_installation_cannot_read_is_not_damaged(
    filled: FakeRegistry, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that another node made with a compressor that is not installed here stays, and `--repair` spares it."""
    pull(filled, hpcc_env, tag="2", HPCC_COMPRESSION="lz4")
    before = files_below(hpcc_env / "cache")
    assert check(hpcc_env).findings == ()

    def absent(number: int) -> Any:
        if number == LZ4:
            raise UnsupportedImage("lz4 is not installed")
        return decompressor(number)

    monkeypatch.setattr("hpcc.proving.decompressor", absent)
    monkeypatch.setattr("hpcc.proving._compressor_of", lambda converter: None)
    report = check(hpcc_env)
    assert {(each.kind, each.damaged) for each in report.findings} == {("pack", False), ("sif", False)}
    assert all("lz4 is not installed" in each.said for each in report.findings)
    assert len(mend_all(Cache(str(hpcc_env / "cache")), report.findings)) == len(report.findings)
    assert files_below(hpcc_env / "cache") == before
