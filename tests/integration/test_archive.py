"""hpcc cache export and import: one OCI archive, the same bytes each time, read by others; hostile ones are refused."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcc.archive import export_images
from hpcc.cache.collect import collect
from hpcc.cache.gc import Policy
from hpcc.cache.layout import Cache
from hpcc.cache.refs import read_ref
from hpcc.errors import CacheError, HpccError, ImageNotFound, IntegrityError, InvalidImage, UsageError
from hpcc.image import open_image
from hpcc.importing import Import, import_archive
from hpcc.lookup import Wanted, find_cached
from hpcc.registry.fake import FakeRegistry
from tests.support.pulls import DIGESTS, LAYERS, NAME, Told, config_of, files_below, noise, pull, settings_of, tar_layer
from tests.support.pulls import uri_of as uri
from tests.support.real import need

pytestmark = pytest.mark.usefixtures("hpcc_env")
REF_NAME = "org.opencontainers.image.ref.name"


def export(home: Path, target: Path, *uris: str, fetch: bool = False, replace: bool = False, **environ: str) -> Any:
    chosen = settings_of(home, **environ)
    images = [Wanted.parse(each, chosen) for each in uris]
    return export_images(images, chosen, str(target), Told(), fetch=fetch, replace=replace)


def take(home: Path, archive: Path, **options: Any) -> Import:
    return import_archive(str(archive), settings_of(home), Told(), **options)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}  # type: ignore[union-attr]


def sif_of(home: Path, name: str, **environ: str) -> bytes:
    image = open_image(name, settings_of(home, **environ), progress=Told())
    os.close(image.rootfs.fd)
    return Path(image.path).read_bytes()


# -- there and back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [False, True])
def test_there_and_back(fake: Callable[..., FakeRegistry], hpcc_env: Path, index: bool) -> None:
    """The image runs without a network; its SIF has the bytes that a pull makes; the tag keeps its digest."""
    registry = fake(index=index)
    here, there = hpcc_env / "here", hpcc_env / "there"
    pull(registry, here)
    pulled = sif_of(here, uri(registry))
    registry.requests.clear()
    done = export(here, hpcc_env / "x.tar", uri(registry))
    assert registry.requests == [] and done.blobs == 4 + index
    found = take(there, hpcc_env / "x.tar")
    assert found.new_blobs == done.blobs and [str(name) for name, _ in found.images] == [uri(registry)]
    assert sif_of(there, uri(registry), HPCC_OFFLINE="1") == pulled
    top = done.images[0][1]
    assert sif_of(there, f"docker://{registry.host}/{NAME}@{top}", HPCC_OFFLINE="1") == pulled
    assert registry.requests == []
    entry = json.loads((there / "cache/oci/index.json").read_bytes())["manifests"][0]
    assert entry["annotations"][REF_NAME] == f"{registry.host}/{NAME}:1"
    assert take(there, hpcc_env / "x.tar").new_blobs == 0  # idempotent


def test_a_tag_is_asked_for_again_where_there_is_a_network(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    """One HEAD, nothing fetched; and where the registry does not answer, what was imported runs with a warning."""
    registry = fake(index=True)
    here, there = hpcc_env / "here", hpcc_env / "there"
    pull(registry, here)
    export(here, hpcc_env / "x.tar", uri(registry))
    take(there, hpcc_env / "x.tar")
    registry.counts.clear()
    sif_of(there, uri(registry))
    assert registry.counts["manifest_head"] == 1
    assert not registry.counts["manifest_get"] and not registry.counts["blob_get"]
    registry.__exit__(None, None, None)
    late = hpcc_env / "late"
    take(late, hpcc_env / "x.tar")
    told = Told()
    os.close(open_image(uri(registry), settings_of(late), progress=told).rootfs.fd)
    assert any("Using what the cache has" in text for text in told.warnings)


def test_what_a_registry_said_lately_wins(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    here, there = hpcc_env / "here", hpcc_env / "there"
    pull(registry, here)
    export(here, hpcc_env / "old.tar", uri(registry))
    registry.add_image(NAME, "1", LAYERS[:1], config_of(LAYERS[:1]))
    pull(registry, there)
    cache = Cache(str(there / "cache"))
    new = read_ref(cache, f"{registry.host}/{NAME}", "1")
    take(there, hpcc_env / "old.tar")
    assert read_ref(cache, f"{registry.host}/{NAME}", "1") == new
    # A later archive goes over an earlier one.
    late = hpcc_env / "late"
    export(there, hpcc_env / "new.tar", uri(registry))
    take(late, hpcc_env / "old.tar")
    take(late, hpcc_env / "new.tar")
    ref = read_ref(Cache(str(late / "cache")), f"{registry.host}/{NAME}", "1")
    assert new and ref and ref.digest == new.digest


def test_deterministic_and_shared_blobs_once(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    more = [*LAYERS, tar_layer({"d": noise(10, 2)})]
    registry.add_image(NAME, "2", more, config_of(more))
    one, two = hpcc_env / "one", hpcc_env / "two"
    for home, tags in ((one, "12"), (two, "21")):
        for tag in tags:
            pull(registry, home, tag=tag)
    export(one, hpcc_env / "1.tar", uri(registry), uri(registry, "2"))
    export(two, hpcc_env / "2.tar", uri(registry, "2"), uri(registry), uri(registry))
    assert (hpcc_env / "1.tar").read_bytes() == (hpcc_env / "2.tar").read_bytes()
    names = [name for name in members(hpcc_env / "1.tar") if name.startswith("blobs")]
    assert names == sorted(set(names)) and len(names) == 3 + 2 + 2
    with tarfile.open(hpcc_env / "1.tar") as tar:
        assert {(each.mtime, each.uid, each.gid, each.uname) for each in tar} == {(0, 0, 0, "")}
    assert len(take(hpcc_env / "three", hpcc_env / "1.tar").images) == 2


def test_export_takes_what_is_there(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake(index=True)
    home, target = hpcc_env / "home", hpcc_env / "x.tar"
    with pytest.raises(ImageNotFound, match="no cache has it"):
        export(home, target, uri(registry))
    pull(registry, home, HPCC_KEEP_BLOBS="0")
    registry.requests.clear()
    with pytest.raises(CacheError, match="do not have 2 of its blobs"):
        export(home, target, uri(registry))
    assert registry.requests == [] and os.listdir(hpcc_env).count("x.tar") == 0
    export(home, target, uri(registry), fetch=True)
    assert registry.counts["blob_get"] == 3 + 2
    assert sif_of(hpcc_env / "there", uri(registry)) == sif_of(home, uri(registry))
    with pytest.raises(UsageError, match="there already"):
        export(home, target, uri(registry), fetch=True)
    export(home, target, uri(registry), fetch=True, replace=True)
    assert not [name for name in os.listdir(hpcc_env) if name.startswith(".")]
    take(hpcc_env / "there2", target)


def test_a_damaged_blob_is_not_exported(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    home = hpcc_env / "home"
    pull(registry, home)
    blob = home / "cache/oci/blobs" / DIGESTS[1].replace(":", "/")
    blob.chmod(0o644)
    blob.write_bytes(bytes(blob.stat().st_size))
    blob.chmod(0o444)
    with pytest.raises(IntegrityError, match="damaged"):
        export(home, hpcc_env / "x.tar", uri(registry))
    assert not [name for name in os.listdir(hpcc_env) if "x.tar" in name]
    # Importing it heals the cache.
    pull(registry, hpcc_env / "good")
    export(hpcc_env / "good", hpcc_env / "good.tar", uri(registry))
    assert take(home, hpcc_env / "good.tar").new_blobs == 1
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_private(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env / "here")
    export(hpcc_env / "here", hpcc_env / "x.tar", uri(registry))
    there = hpcc_env / "there"
    take(there, hpcc_env / "x.tar", private=True)
    sif_of(there, uri(registry), HPCC_OFFLINE="1")
    shared, private = settings_of(there).cache_dir, settings_of(there).private_dir
    assert not any(name.startswith(("oci", "refs", "sif")) for name in files_below(Path(shared)))
    assert len(os.listdir(Path(private) / "sif-v1")) == 1


# -- as others write and read them ---------------------------------------------------------------------------


def skopeo(*argv: object) -> bytes:
    words = [need("skopeo"), "--insecure-policy", *map(str, argv)]
    done = subprocess.run(words, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("index", [False, True])
def test_skopeo_reads_ours_and_we_its(fake: Callable[..., FakeRegistry], hpcc_env: Path, index: bool) -> None:
    registry = fake(index=index)
    home = hpcc_env / "home"
    pull(registry, home)
    export(home, hpcc_env / "x.tar", uri(registry))
    name = f"{registry.host}/{NAME}:1"
    said = json.loads(skopeo("inspect", f"oci-archive:{hpcc_env / 'x.tar'}:{name}"))
    assert said["Layers"] == DIGESTS
    skopeo("copy", f"oci-archive:{hpcc_env / 'x.tar'}:{name}", f"oci-archive:{hpcc_env / 'y.tar'}:{name}")
    there = hpcc_env / "there"
    take(there, hpcc_env / "y.tar")
    assert sif_of(there, uri(registry), HPCC_OFFLINE="1") == sif_of(home, uri(registry))
    # A tag alone is no name; with --name it is.
    skopeo("copy", f"oci-archive:{hpcc_env / 'x.tar'}:{name}", f"oci-archive:{hpcc_env / 'z.tar'}:1")
    bare = hpcc_env / "bare"
    assert len(take(bare, hpcc_env / "z.tar").unnamed) == 1
    take(bare, hpcc_env / "z.tar", base=f"{registry.host}/{NAME}")
    assert sif_of(bare, uri(registry), HPCC_OFFLINE="1") == sif_of(home, uri(registry))


def test_what_docker_saved(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    """Docker from 25 on: an OCI layout, with the old manifest.json beside, and containerd's annotations."""
    registry = fake()
    pull(registry, hpcc_env / "here")
    export(hpcc_env / "here", hpcc_env / "x.tar", uri(registry))
    files = members(hpcc_env / "x.tar")
    index = json.loads(files["index.json"])
    index["manifests"][0]["annotations"] = {"io.containerd.image.name": "docker.io/lab/tools:1", REF_NAME: "1"}
    files["index.json"] = json.dumps(index).encode()
    files["manifest.json"], files["repositories"] = b"[]", b"{}"
    done = take(hpcc_env / "there", write_tar(hpcc_env / "docker.tar", files))
    assert [str(name) for name, _ in done.images] == ["docker://docker.io/lab/tools:1"]


# -- hostile -------------------------------------------------------------------------------------------------


def write_tar(path: Path, files: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in [*((tarfile.TarInfo(name), data) for name, data in files.items()), *more]:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def small_archive() -> dict[str, bytes]:
    """An image of one layer, as the files of an archive."""
    layer = LAYERS[0]
    config = json.dumps(config_of([layer])).encode()

    def descriptor(data: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(data)}

    layers = [descriptor(layer, "layer.v1.tar+gzip")]
    document = {"schemaVersion": 2, "config": descriptor(config, "config.v1+json"), "layers": layers}
    manifest = json.dumps(document).encode()
    entry = {**descriptor(manifest, "manifest.v1+json"), "annotations": {REF_NAME: "lab.example/a:1"}}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{blob(data): data for data in (manifest, config, layer)},
    }


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def _lying(path: str) -> dict[str, bytes]:
    files = small_archive()
    index = json.loads(files["index.json"])
    if path == "digest":
        index["manifests"][0]["annotations"][REF_NAME] = f"lab.example/a@sha256:{'0' * 64}"
    else:
        index["manifests"][0]["digest"] = f"sha256:{'0' * 64}"
    return {**files, "index.json": json.dumps(index).encode()}


FIRST = next(iter(small_archive().items()))
HOSTILE: dict[str, Callable[[Path], Path]] = {
    "up": lambda path: write_tar(path, small_archive(), member("../../etc/passwd")),
    "up behind blobs": lambda path: write_tar(path, small_archive(), member("blobs/sha256/../../../x")),
    "absolute": lambda path: write_tar(path, small_archive(), member("/etc/passwd")),
    "no blob": lambda path: write_tar(path, small_archive(), member("blobs/sha256/abc")),
    "upper case": lambda path: write_tar(path, small_archive(), member(f"blobs/sha256/{'A' * 64}")),
    "odd algorithm": lambda path: write_tar(path, small_archive(), member(f"blobs/md5/{'a' * 32}")),
    "colon": lambda path: write_tar(path, small_archive(), member(f"blobs/sha256:{'a' * 64}")),
    "not utf-8": lambda path: write_tar(path, small_archive(), member("blobs/sha256/\udcff")),
    "symlink": lambda path: write_tar(path, small_archive(), member(blob(b"x"), tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda path: write_tar(path, small_archive(), member(blob(b"x"), tarfile.LNKTYPE, "index.json")),
    "device": lambda path: write_tar(path, small_archive(), member("dev", tarfile.CHRTYPE)),
    "fifo": lambda path: write_tar(path, small_archive(), member(blob(b"x"), tarfile.FIFOTYPE)),
    "directory": lambda path: write_tar(path, small_archive(), member(blob(b"x"), tarfile.DIRTYPE)),
    "twice": lambda path: write_tar(path, small_archive(), *[member(blob(b""))] * 2),
    "index twice": lambda path: write_tar(path, small_archive(), member("./index.json")),
    "wrong digest": lambda path: write_tar(path, {**small_archive(), blob(b"x"): b"y"}),
    "no index": lambda path: write_tar(path, dict([FIRST])),
    "no layout": lambda path: write_tar(path, {k: v for k, v in small_archive().items() if k != "oci-layout"}),
    "old layout": lambda path: write_tar(path, {**small_archive(), "oci-layout": b'{"imageLayoutVersion":"2"}'}),
    "empty index": lambda path: write_tar(path, {**small_archive(), "index.json": b'{"manifests":[]}'}),
    "index of a million": lambda path: write_tar(path, {**small_archive(), "index.json": b"[" * 1_000_000}),
    "index too large": lambda path: write_tar(path, {**small_archive(), "index.json": b" " * (5 << 20)}),
    "index with many": lambda path: write_tar(
        path, {**small_archive(), "index.json": b'{"manifests":[' + b"{}," * 2000 + b"{}]}"}
    ),
    "lies about its digest": lambda path: write_tar(path, _lying("digest")),
    "names what is not there": lambda path: write_tar(path, _lying("top")),
    "no layer": lambda path: write_tar(path, dict(list(small_archive().items())[:-1])),
    "compressed": lambda path: Path(path.write_bytes(LAYERS[0]) and path),
    "text": lambda path: Path(path.write_text("this is no tar archive\n" * 50) and path),
    "empty": lambda path: Path(path.touch() or path),  # type: ignore[func-returns-value]
    "sparse": lambda path: Path(path.write_bytes(_sparse(1 << 40)) and path),
    "claims a terabyte": lambda path: Path(path.write_bytes(_claiming(1 << 40)) and path),
}


def _sparse(size: int) -> bytes:
    """GNU's old format: one region of nothing, and so many bytes in all (the number in base 256)."""
    info = tarfile.TarInfo(f"blobs/sha256/{'a' * 64}")
    info.type = b"S"
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000000000\x00"
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def _claiming(size: int) -> bytes:
    info = tarfile.TarInfo(f"blobs/sha256/{'a' * 64}")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(100_000)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(hpcc_env: Path, name: str) -> None:
    """Refused, with the file's name, in no time, and nothing of it is found in the cache; gc takes what is left."""
    archive = HOSTILE[name](hpcc_env / "hostile.tar")
    with pytest.raises((InvalidImage, IntegrityError)) as caught:
        take(hpcc_env / "there", archive)
    assert "hostile.tar" in caught.value.message
    chosen = settings_of(hpcc_env / "there", HPCC_OFFLINE="1")
    assert find_cached(Wanted.parse("docker://lab.example/a:1", chosen), chosen) is None
    cache = hpcc_env / "there/cache"
    assert not list(cache.rglob("refs/**/1")) and not list((cache / "tmp").glob("*"))
    for path in (cache / "oci/blobs").glob("*/*"):
        assert hashlib.new(path.parent.name, path.read_bytes()).hexdigest() == path.name
    if cache.exists():
        collect(Cache(str(cache)), Policy(0))
        assert not [path for path in (cache / "oci").rglob("*") if path.is_file()]


def test_junk_is_for_garbage_collection(hpcc_env: Path) -> None:
    """And not for the import: by then somebody else's image may need it."""
    archive = write_tar(hpcc_env / "x.tar", {blob(b"junk"): b"junk", **small_archive()})
    done = take(hpcc_env / "there", archive)
    assert len(done.images) == 1
    collect(Cache(str(hpcc_env / "there/cache")), Policy(0))
    names = {path.name for path in (hpcc_env / "there/cache/oci/blobs/sha256").iterdir()}
    assert names == {Path(name).name for name in small_archive() if name.startswith("blobs")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut short or with a byte changed: an HpccError, or an image whose blobs are all what their names say."""
    home = tmp_path_factory.mktemp("damage")
    archive = write_tar(home / "x.tar", small_archive())
    content = bytearray(archive.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        heads = st.sampled_from(
            [at for at in range(0, len(content), 512) if content[at : at + 5] in (b"blobs", b"index")]
        )
        at = min(data.draw(heads) + data.draw(st.integers(0, 900)), len(content) - 1)
        content[at] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    try:
        take(home, archive)
    except HpccError:
        pass
    for path in (home / "cache").glob("oci/blobs/*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
