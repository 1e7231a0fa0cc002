"""Images in archives and layouts: which one is meant, equal bytes, second uses, and what is broken or hostile."""

import gzip
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import (
    HpccError,
    ImageNotFound,
    IntegrityError,
    InvalidImage,
    PolicyError,
    UnsupportedImage,
    UsageError,
)
from hpcc.image import open_image
from hpcc.registry.fake import FakeRegistry
from hpcc.runtime.environment import RunConfig
from tests.support.archives import link, new_save, old_save, skopeo_copy, tar_of
from tests.support.pulls import LAYERS, Told, config_of, files_below, noise, settings_of, tar_layer, uri_of

CONFIG = config_of(LAYERS, config={"Env": ["A=b"], "Cmd": ["/a", "x"]})
TAG = "lab/tools:1.4"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image("group/tools", "1", LAYERS, CONFIG)
        yield registry


class Opened:
    """An image of a URI: its SIF's bytes, and what it says of itself."""

    def __init__(self, uri: str, home: Path, told: Told | None = None, **environ: str) -> None:
        image = open_image(uri, settings_of(home, **environ), progress=told or Told())
        self.key, self.reference, self.path = image.key, image.reference, image.path
        self.config: RunConfig = image.config
        self.sif = os.pread(image.rootfs.fd, 1 << 30, 0)
        os.close(image.rootfs.fd)


def objects(home: Path) -> set[str]:
    return set(files_below(home / "cache")) if (home / "cache").exists() else set()


# -- the same image in each form ---------------------------------------------------------------------------------------


def test_what_skopeo_writes(here: Path, registry: FakeRegistry) -> None:
    """Each form gives the image, and all share the packs that docker:// has made."""
    source = uri_of(registry)
    for target in ("oci:lay:1", f"docker-archive:d.tar:{TAG}", "oci-archive:o.tar:1"):
        skopeo_copy(source, target, here)
    pulled = Opened(source, here)
    packs = sorted(path for path in objects(here) if path.startswith("packs"))
    for uri in ("oci:lay:1", "oci:lay", "docker-archive:d.tar", f"docker-archive:d.tar:{TAG}", "oci-archive:o.tar:1"):
        told = Told()
        found = Opened(uri, here, told)
        assert found.config == pulled.config and found.key != pulled.key
        assert found.reference.partition("@")[0] == uri.partition(":")[0]
        assert not told.warnings
    assert len(packs) == 2 and packs == sorted(path for path in objects(here) if path.startswith("packs"))
    manifest = json.loads((here / "lay/index.json").read_text())["manifests"][0]["digest"]
    assert Opened("oci:lay", here).reference == f"oci@{manifest}"


SAVES: dict[str, Callable[[], dict[str, Any]]] = {
    "old": lambda: old_save(LAYERS, CONFIG, [TAG]),
    "new": lambda: new_save(LAYERS, CONFIG, [TAG]),
    "compressed": lambda: new_save(LAYERS, CONFIG, [TAG], plain=False),
}


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_saves_of_all_years_give_the_same_bytes(here: Path, ending: str) -> None:
    """Also of two caches, at any path, and compressed or not: neither the path nor the form goes in."""
    found = set()
    for name, save in SAVES.items():
        data = tar_of(save())
        (here / name).mkdir()
        (here / name / f"x.{ending}").write_bytes(gzip.compress(data, 1) if "gz" in ending else data)
        found.add(Opened(f"docker-archive:{name}/x.{ending}", here / name).sif)
    assert len(found) == 1


def test_the_same_layer_twice_is_a_link_in_old_saves(here: Path) -> None:
    layers = [*LAYERS, LAYERS[0]]
    files = old_save(layers, config_of(layers), [TAG])
    assert any(isinstance(each, tarfile.TarInfo) for each in files.values())
    (here / "x.tar").write_bytes(tar_of(files))
    assert Opened("docker-archive:x.tar", here).key


def test_names_with_and_without_slashes(here: Path, registry: FakeRegistry) -> None:
    skopeo_copy(uri_of(registry), "oci:lay:v:1", here)
    (here / "a:b.tar").write_bytes(tar_of(new_save(LAYERS, CONFIG, [TAG])))
    keys = {Opened(uri, here).key for uri in ("oci:lay", "oci://lay:v:1", f"oci:{here}/lay", f"oci://{here}/lay:v:1")}
    assert len(keys) == 1
    keys = {Opened(uri, here).key for uri in ("docker-archive:a:b.tar", f"docker-archive://{here}/a:b.tar:{TAG}")}
    assert len(keys) == 1


def test_the_cache_is_a_source(here: Path, registry: FakeRegistry) -> None:
    Opened(uri_of(registry), here)
    ref = f"{registry.host}/group/tools:1"
    by_ref = Opened(f"oci:{here}/cache/oci:{ref}", here / "other")
    digest = by_ref.reference.partition("@")[2]
    assert Opened(f"oci:{here}/cache/oci:{digest}", here / "other").sif == by_ref.sif
    with tarfile.open(here / "cache.tar", "w") as tar:
        tar.add(here / "cache/oci", ".")
    assert Opened(f"oci-archive:cache.tar:{ref}", here).config == by_ref.config


# -- second uses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["docker-archive:x.tar", "docker-archive:x.tgz", "oci:lay", "oci-archive:x.tar"])
def test_a_second_use_is_a_hit_and_a_change_is_noticed(here: Path, uri: str) -> None:
    def write(layers: list[bytes]) -> None:
        files = new_save(layers, config_of(layers), [TAG])
        data = tar_of(files)
        (here / "x.tar").write_bytes(data)
        (here / "x.tgz").write_bytes(gzip.compress(data, 1))
        for name, content in files.items():
            (here / "lay" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "lay" / name).write_bytes(content)

    write(LAYERS)
    first = Opened(uri, here)
    before, told = objects(here), Told()
    assert Opened(uri, here, told).sif == first.sif
    assert objects(here) == before and not told.parts
    write([LAYERS[0], tar_layer({"c": noise(1000, 7)})])
    assert Opened(uri, here).key != first.key
    assert os.listdir(here / "cache/tmp") == []


def test_a_group_gets_nothing_of_ones_own_files(here: Path) -> None:
    (here / "x.tar").write_bytes(tar_of(new_save(LAYERS, CONFIG, [TAG])))
    (here / "cache").mkdir()
    (here / "cache").chmod(0o3770)
    image = Opened("docker-archive:x.tar", here)
    assert not Path(image.path).is_relative_to(here / "cache") and objects(here) == set()


def test_another_machines_image_is_said_to_be_one(here: Path) -> None:
    other = {**CONFIG, "architecture": "s390x"}
    (here / "x.tar").write_bytes(tar_of(new_save(LAYERS, other, [TAG])))
    told = Told()
    Opened("docker-archive:x.tar", here, told)
    assert told.warnings == [f"docker-archive:x.tar is an image for linux/s390x, not for {_host()}"]


def _host() -> str:
    from hpcc.oci.platform import Platform

    return str(Platform.host())


# -- several images ----------------------------------------------------------------------------------------------------


def test_more_than_one_image(here: Path, registry: FakeRegistry) -> None:
    registry.add_image("group/tools", "2", LAYERS[:1], config_of(LAYERS[:1]))
    for tag in ("1", "2"):
        skopeo_copy(uri_of(registry, tag), f"oci:lay:{tag}", here)
    with tarfile.open(here / "o.tar", "w") as tar:
        tar.add(here / "lay", ".")
    for uri in ("oci:lay", "oci-archive:o.tar"):
        with pytest.raises(UsageError, match=r"^more than one image in oci, choose an image$") as raised:
            Opened(uri, here)
        assert raised.value.hint == "It has: 1, 2."
        assert Opened(f"{uri}:1", here).key != Opened(f"{uri}:2", here).key
        with pytest.raises(UsageError, match="there is no image '3' in it"):
            Opened(f"{uri}:3", here)
    one, two = old_save(LAYERS, CONFIG, [TAG]), old_save(LAYERS[:1], config_of(LAYERS[:1]), ["debian:12"])
    both = [*json.loads(one["manifest.json"]), *json.loads(two["manifest.json"])]
    (here / "d.tar").write_bytes(tar_of({**one, **two, "manifest.json": json.dumps(both).encode()}))
    with pytest.raises(UsageError, match="more than one image in docker-archive, choose an image") as raised:
        Opened("docker-archive:d.tar", here)
    assert raised.value.hint == f"It has: {TAG}; debian:12."
    for first, second in ((TAG, "@0"), ("debian:12", "docker.io/library/debian:12"), ("debian:12", "@1")):
        assert Opened(f"docker-archive:d.tar:{first}", here).key == Opened(f"docker-archive:d.tar:{second}", here).key
    with pytest.raises(UsageError, match="there is no image 'debian:13' in it"):
        Opened("docker-archive:d.tar:debian:13", here)


# -- broken and hostile ------------------------------------------------------------------------------------------------


def _with(**changed: Any) -> bytes:
    files = new_save(LAYERS, CONFIG, [TAG])
    files.update({name.replace("__", "/").replace("_json", ".json"): data for name, data in changed.items()})
    return tar_of({name: data for name, data in files.items() if data is not None})


def _twice() -> bytes:
    info = tarfile.TarInfo("manifest.json")
    return tar_of(new_save(LAYERS, CONFIG, [TAG]), [(info, b"")])


def _entry(**changed: Any) -> bytes:
    entry = json.loads(new_save(LAYERS, CONFIG, [TAG])["manifest.json"])[0]
    return _with(manifest_json=json.dumps([{**entry, **changed}]).encode())


def _wrong_layer() -> bytes:
    files = new_save(LAYERS, CONFIG, [TAG])
    path = json.loads(files["manifest.json"])[0]["Layers"][1]
    return tar_of({**files, path: files[path].replace(b"upper", b"UPPER")})


HOSTILE: dict[str, tuple[Callable[[], bytes], type[HpccError], str]] = {
    "no archive": (lambda: b"no archive at all" * 100, InvalidImage, "it is no tar archive"),
    "empty": (lambda: b"", InvalidImage, "has no manifest.json"),
    "truncated": (lambda: _with()[:-900_000], InvalidImage, "ends in the middle"),
    "truncated gzip": (lambda: gzip.compress(_with(), 1)[:-5000], InvalidImage, "gzip stream ends early"),
    "dots": (lambda: tar_of({"../x": b""}), InvalidImage, "'../x', a path that leaves it"),
    "inner dots": (lambda: tar_of({"a/../../x": b""}), InvalidImage, "a path that leaves it"),
    "absolute": (lambda: tar_of({"/etc/x": b""}), InvalidImage, "absolute path '/etc/x'"),
    "link out": (lambda: tar_of({"a/manifest.json": link("../../etc/passwd")}), InvalidImage, "a path that leaves it"),
    "link to the host": (lambda: _with(manifest_json=link("/etc/passwd")), InvalidImage, "absolute path '/etc/passwd'"),
    "link to itself": (lambda: _with(manifest_json=link("manifest.json")), InvalidImage, "leads round and round"),
    "device": (lambda: tar_of({"x": link("", tarfile.CHRTYPE)}), InvalidImage, "is a device"),
    "twice": (_twice, InvalidImage, "'manifest.json' comes twice"),
    "manifest is huge": (lambda: _with(manifest_json=b"[" + b" " * (5 << 20)), InvalidImage, "more than the 4194304"),
    "manifest is no JSON": (lambda: _with(manifest_json=b"nope"), InvalidImage, "not JSON"),
    "manifest is no list": (lambda: _with(manifest_json=b'{"a": 1}'), InvalidImage, "no list of images"),
    "nested": (lambda: _with(manifest_json=b"[" * 100_000), InvalidImage, "not JSON"),
    "no images": (lambda: _with(manifest_json=b"[]"), InvalidImage, "0 images"),
    "no config": (lambda: _entry(Config="x.json"), InvalidImage, "names 'x.json', and has no such file"),
    "layers lack": (lambda: _entry(Layers=[]), InvalidImage, "its config names 2 layers, its manifest.json 0"),
    "layer is away": (lambda: _entry(Layers=["x", "y"]), InvalidImage, "has no such file"),
    "layer outside": (lambda: _entry(Layers=["../x", "/etc/passwd"]), InvalidImage, "has no such file"),
    "layer is another": (_wrong_layer, IntegrityError, "but the image's config says"),
    "older": (lambda: tar_of({"repositories": b"{}"}), UnsupportedImage, "older than 1.10"),
    "oci": (lambda: _with(manifest_json=None), InvalidImage, "it is an OCI layout"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(here: Path, name: str) -> None:
    make, kind, words = HOSTILE[name]
    (here / "x.tar").write_bytes(make())
    with pytest.raises(kind) as raised:
        Opened("docker-archive:x.tar", here)
    assert words in raised.value.message and "x.tar" in raised.value.message, raised.value.message
    left = [path for path in objects(here) if path.startswith(("sif", "tmp"))]
    assert left == []


def _break(here: Path, name: str) -> None:
    lay = here / "lay"
    (index,) = json.loads((lay / "index.json").read_text())["manifests"]
    manifest = lay / "blobs/sha256" / index["digest"][7:]
    parts = json.loads(manifest.read_text())
    layer = lay / "blobs/sha256" / parts["layers"][1]["digest"][7:]
    if name == "layer altered":
        data = bytearray(layer.read_bytes())
        data[-9] ^= 1
        layer.write_bytes(data)
    elif name == "layer short":
        layer.write_bytes(layer.read_bytes()[:-9])
    elif name == "layer is a link":
        layer.rename(here / "away")
        layer.symlink_to(here / "away")
    elif name == "layer is a fifo":
        layer.unlink()
        os.mkfifo(layer)
    elif name == "layer is away":
        layer.unlink()
    elif name == "manifest altered":
        manifest.write_text(manifest.read_text() + " ")
    elif name == "manifest swapped":
        manifest.write_text(manifest.read_text().replace("layers", "Layers"))
    elif name == "index is huge":
        (lay / "index.json").write_bytes(b"[" + b" " * (5 << 20))
    elif name == "version":
        (lay / "oci-layout").write_text('{"imageLayoutVersion": "9"}')
    elif name == "no index":
        (lay / "index.json").unlink()


BROKEN = {
    "layer altered": (IntegrityError, "expected digest"),
    "layer short": (InvalidImage, "bytes there, and its manifest says"),
    "layer is a link": (InvalidImage, "is a link, which is not followed"),
    "layer is a fifo": (InvalidImage, "is no file"),
    "layer is away": (InvalidImage, "No such file"),
    "manifest altered": (IntegrityError, "expected"),
    "manifest swapped": (IntegrityError, "expected digest"),
    "index is huge": (InvalidImage, "more than the 4194304"),
    "version": (InvalidImage, "layout of version '9'"),
    "no index": (InvalidImage, "has no index.json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_layouts(here: Path, registry: FakeRegistry, name: str) -> None:
    skopeo_copy(uri_of(registry), "oci:lay:1", here)
    _break(here, name)
    kind, words = BROKEN[name]
    with pytest.raises(kind) as raised:
        Opened("oci:lay", here)
    assert words in raised.value.message and "lay" in raised.value.message, raised.value.message
    assert [path for path in objects(here) if path.startswith(("sif", "tmp"))] == []


@pytest.mark.parametrize("agent", ["oci", "oci-archive", "docker-archive"])
def test_what_is_not_there(here: Path, agent: str) -> None:
    with pytest.raises(ImageNotFound, match="No such file"):
        Opened(f"{agent}:nothing", here)
    with pytest.raises(UsageError, match="names no image"):
        Opened(f"{agent}:", here)
    (here / "directory").mkdir()
    (here / "file").write_bytes(b"")
    wrong = "file" if agent == "oci" else "directory"
    with pytest.raises(UsageError, match=f"{wrong} is ") as raised:
        Opened(f"{agent}:{wrong}", here)
    assert raised.value.hint


def test_limits(here: Path) -> None:
    (here / "x.tar").write_bytes(tar_of(new_save(LAYERS, CONFIG, [TAG])))
    (here / "x.tgz").write_bytes(gzip.compress(tar_of(new_save(LAYERS, CONFIG, [TAG]))))
    with pytest.raises(PolicyError, match="its layers have 3 MB, this site allows 1 MB"):
        Opened("docker-archive:x.tar", here, HPCC_MAX_IMAGE="1MB")
    with pytest.raises(PolicyError, match="unpacks to more than"):
        Opened("docker-archive:x.tgz", here, HPCC_MAX_LAYER="1MB")
    assert os.listdir(here / "cache/tmp") == []
