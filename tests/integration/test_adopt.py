"""hpcc cache adopt: Apptainer's blobs, each hashed and never linked; Snakemake's images as links, atomically."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcc.adopting import adopt_layout, adopts_for_all, link_images, read_prefix, snakemake_name
from hpcc.cache.layout import Cache
from hpcc.cache.roots import read_roots
from hpcc.errors import CacheError, UsageError
from hpcc.layout import write_layout
from hpcc.lookup import Wanted
from hpcc.registry.fake import FakeRegistry
from tests.support.pulls import DIGESTS, LAYERS, Told, files_below, pull, settings_of
from tests.support.pulls import uri_of as uri

pytestmark = pytest.mark.usefixtures("hpcc_env")


def apptainer_cache(registry: FakeRegistry, home: Path) -> Path:
    """A layout as Apptainer keeps one: its index.json calls images by hashes."""
    chosen = settings_of(home / "other")
    path = home / "blob"
    write_layout(Wanted.parse(uri(registry), chosen), chosen, str(path), Told(), replace=False)
    index = json.loads((path / "index.json").read_bytes())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "a" * 64}
    (path / "index.json").write_text(json.dumps(index))
    return path


def test_blobs(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    """The layers are not fetched again; the manifest and its tag are asked for."""
    registry = fake()
    path = apptainer_cache(registry, hpcc_env)
    before = files_below(path)
    tier, chosen, told = Cache(str(hpcc_env / "cache")), settings_of(hpcc_env), Told()
    done = adopt_layout(str(path), tier, chosen, told)
    assert (done.blobs, done.had, done.damaged, done.images) == (4, 0, (), ())
    assert done.size == told.done == sum(p.stat().st_size for p in (path / "blobs/sha256").iterdir())
    assert files_below(path) == before
    assert {p.stat().st_nlink for p in path.rglob("*") if p.is_file()} == {1}
    registry.counts.clear()
    pull(registry, hpcc_env)
    assert not registry.counts["blob_get"]
    again = adopt_layout(str(path), tier, chosen)
    assert (again.blobs, again.had) == (0, 4)


def test_images_with_names(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    path = apptainer_cache(registry, hpcc_env)
    index = json.loads((path / "index.json").read_bytes())
    name = uri(registry).removeprefix("docker://")
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": name}
    (path / "index.json").write_text(json.dumps(index))
    done = adopt_layout(str(path), Cache(str(hpcc_env / "cache")), settings_of(hpcc_env))
    assert done.images == (uri(registry),)
    registry.requests.clear()
    pull(registry, hpcc_env, HPCC_OFFLINE="1")
    assert registry.requests == []


def test_what_a_killed_program_left(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    """Half blobs, an empty index.json, links and odd names: left out, and the rest is taken."""
    registry = fake()
    path = apptainer_cache(registry, hpcc_env)
    half = path / "blobs" / DIGESTS[1].replace(":", "/")
    half.write_bytes(LAYERS[1][:1000])
    (path / "index.json").write_bytes(b"")
    (path / "blobs/sha256/put-blob123").write_bytes(b"x")
    secret = hpcc_env / "secret"
    secret.write_bytes(b"secret")
    (path / "blobs/sha256" / hashlib.sha256(b"secret").hexdigest()).symlink_to(secret)
    os.mkfifo(path / "blobs/sha256" / ("0" * 64))
    done = adopt_layout(str(path), Cache(str(hpcc_env / "cache")), settings_of(hpcc_env))
    assert done.blobs == 3 and done.damaged == (str(half),)
    assert not os.listdir(hpcc_env / "cache/tmp")


def test_no_layout(hpcc_env: Path) -> None:
    for path in (hpcc_env, hpcc_env / "nothing"):
        with pytest.raises(UsageError, match="no OCI layout"):
            adopt_layout(str(path), Cache(str(hpcc_env / "cache")), settings_of(hpcc_env))


@pytest.mark.parametrize(
    "mode, share, private, for_all",
    [
        (None, False, False, True),
        (0o700, False, False, True),
        (0o700, False, True, False),
        (0o755, False, False, False),
        (0o3770, False, False, False),
        (0o3770, True, False, True),
    ],
)
def test_where_blobs_go(hpcc_env: Path, mode: int | None, share: bool, private: bool, for_all: bool) -> None:
    """Apptainer does not say which are private, so nobody else may see them unless somebody says so."""
    chosen = settings_of(hpcc_env)
    if mode is not None:
        os.mkdir(chosen.cache_dir)
        os.chmod(chosen.cache_dir, mode)
    assert adopts_for_all(chosen, share=share, private=private) is for_all
    with pytest.raises(UsageError):
        adopts_for_all(chosen, share=True, private=True)


# -- Snakemake -----------------------------------------------------------------------------------------------


def test_snakemakes_names() -> None:
    assert snakemake_name("docker://alpine:3.20") == "f9e4fa470459760186eca07024782c39.simg"


def test_links(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    image = pull(registry, hpcc_env)
    prefix = hpcc_env / "prefix"
    prefix.mkdir()
    mine, other, nobodys = (prefix / snakemake_name(name) for name in (uri(registry), uri(registry, "9"), "docker://x"))
    for path in (mine, other, nobodys):
        path.write_bytes(b"old " + path.name.encode())
    (prefix / "readme").touch()
    # However old the tag is, and without a network: the workflow had its image already.
    chosen = settings_of(hpcc_env, HPCC_TTL="0")
    registry.requests.clear()
    found = read_prefix(str(prefix), [uri(registry), uri(registry, "9")], chosen)
    assert {(each.path, each.state) for each in found} == {
        (str(mine), "ready"),
        (str(other), "missing"),
        (str(nobodys), "unknown"),
    }
    assert registry.requests == [] and not mine.is_symlink()
    assert link_images(found, chosen) == [str(mine)]
    assert os.readlink(mine) == image.path and other.read_bytes().startswith(b"old")
    assert Path(f"{mine}.bak").read_bytes().startswith(b"old")
    (root,) = read_roots(Cache(image.cache))
    assert (root.path, root.key) == (str(mine), image.key)
    again = read_prefix(str(prefix), [uri(registry)], chosen)
    assert {each.state for each in again} == {"linked", "unknown"} and link_images(again, chosen) == []
    assert sorted(os.listdir(prefix)) == sorted([mine.name, f"{mine.name}.bak", other.name, nobodys.name, "readme"])


def test_a_backup_is_not_overwritten(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    path = hpcc_env / snakemake_name(uri(registry))
    path.write_bytes(b"new")
    Path(f"{path}.bak").write_bytes(b"older")
    chosen = settings_of(hpcc_env)
    with pytest.raises(CacheError, match="there already"):
        link_images(read_prefix(str(hpcc_env), [uri(registry)], chosen), chosen)
    assert path.read_bytes() == b"new" and Path(f"{path}.bak").read_bytes() == b"older"
    assert not [name for name in os.listdir(hpcc_env) if name.startswith(path.name) and name.count(".") > 2]
    link_images(read_prefix(str(hpcc_env), [uri(registry)], chosen), chosen, keep=False)
    assert path.is_symlink() and Path(f"{path}.bak").read_bytes() == b"older"
