"""From a reference to a cached SIF, against the embedded registry: one pull for all, damage, privacy, interruption."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.cache.temporary import PARTIAL_SIZE
from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    IntegrityError,
    InvalidImage,
    RateLimited,
    RegistryUnavailable,
    UnsupportedImage,
)
from hpcc.image import open_image
from hpcc.lookup import Wanted, find_cached
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST
from hpcc.oci.reference import Reference
from hpcc.registry.fake import FakeRegistry, Faults
from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person, isolated
from tests.support.pulls import (
    ARCHITECTURE,
    DIGESTS,
    LAYERS,
    NAME,
    StallingStorage,
    Told,
    call_as,
    config_of,
    files_below,
    pull,
    settings_of,
    tar_layer,
    uri_of,
)

pytestmark = pytest.mark.usefixtures("hpcc_env")


def sif_of(home: Path, tier: str = "cache") -> Path:
    (found,) = (home / tier / "sif-v1").iterdir()
    return found


def temporaries(home: Path) -> list[str]:
    return [name for tier in ("cache", "private") for name in _names(home / tier / "tmp")]


def _names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


def _forget_image(home: Path, *kinds: str) -> None:
    """Remove SIFs, and objects of these other kinds."""
    for kind in ("sif-v1", *kinds):
        for path in (home / "cache" / kind).rglob("*"):
            if path.is_file():
                path.unlink()


# -- once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [False, True])
def test_second_pull_asks_nobody(fake, hpcc_env: Path, index: bool) -> None:
    registry = fake(index=index)
    told = Told()
    first = pull(registry, hpcc_env, told=told)
    assert told.warnings == [] and told.done == sum(map(len, LAYERS))
    assert dict(registry.counts) == {
        "manifest_head": 1, "manifest_get": 1 + index, "blob_get": 1 + len(LAYERS), "token": 1
    }  # fmt: skip
    asked = len(registry.requests)
    second = pull(registry, hpcc_env)
    assert len(registry.requests) == asked
    assert (first.path, first.key, first.reference) == (second.path, second.key, second.reference)
    assert first.reference.startswith(f"{registry.host}/{NAME}@sha256:")
    assert sif_of(hpcc_env).stat().st_mode & 0o7777 == 0o444
    assert temporaries(hpcc_env) == []
    assert not (hpcc_env / "private").exists() or files_below(hpcc_env / "private") == {}


def test_no_digest_in_the_answer_costs_no_second_get(fake, hpcc_env: Path) -> None:
    registry = fake(faults=Faults(missing_digest=True))
    pull(registry, hpcc_env)
    assert registry.counts["manifest_get"] == 1


def test_by_digest(fake, hpcc_env: Path) -> None:
    registry = fake(index=True)
    top = Digest.of(registry.manifests[NAME, "1"][1])
    settings = settings_of(hpcc_env)
    uri = f"docker://{registry.host}/{NAME}@{top}"
    key = open_image(uri, settings).key
    assert key == pull(registry, hpcc_env).key
    assert find_cached(Wanted.parse(uri, settings), settings) is not None
    assert not list((hpcc_env / "cache/refs").rglob("sha256*"))


def test_cache_is_an_oci_layout(fake, hpcc_env: Path) -> None:
    registry = fake(index=True)
    pull(registry, hpcc_env)
    oci = hpcc_env / "cache/oci"
    assert json.loads((oci / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((oci / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": f"{registry.host}/{NAME}:1"}
    manifest = (oci / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
    assert len(manifest) == entry["size"]
    for blob in (oci / "blobs/sha256").iterdir():
        assert Digest.of(blob.read_bytes()).hex == blob.name
    assert [each["digest"] for each in json.loads(manifest)["layers"]] == DIGESTS
    pull(registry, hpcc_env, HPCC_TTL="0")
    assert len(json.loads((oci / "index.json").read_bytes())["manifests"]) == 1


def test_packs_are_used_by_the_next_image(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    more = [*LAYERS, tar_layer({"d": b"new"})]
    registry.add_image(NAME, "2", more, config_of(more))
    registry.counts.clear()
    pull(registry, hpcc_env, tag="2")
    assert registry.counts["blob_get"] == 2  # the config and the new layer


def test_same_layer_twice_and_no_layer(fake, hpcc_env: Path) -> None:
    registry = fake()
    registry.add_image(NAME, "twice", [LAYERS[0], LAYERS[1], LAYERS[0]], config_of([LAYERS[0], LAYERS[1], LAYERS[0]]))
    registry.add_image(NAME, "empty", [], config_of([]))
    assert pull(registry, hpcc_env, tag="twice").key
    assert registry.counts["blob_get"] == 3
    assert pull(registry, hpcc_env, tag="empty").key


@pytest.mark.parametrize("keep", ["blobs", "packs"])
def test_what_is_not_to_be_kept(fake, hpcc_env: Path, keep: str) -> None:
    registry = fake()
    other = {"blobs": "packs", "packs": "blobs"}[keep]
    image = pull(registry, hpcc_env, **{f"HPCC_KEEP_{other.upper()}": "0"})
    blobs = {f"sha256:{name}" for name in _names(hpcc_env / "cache/oci/blobs/sha256")}
    assert (set(DIGESTS) <= blobs, len(_names(hpcc_env / "cache/packs-v1"))) == {
        "blobs": (True, 0), "packs": (False, 2)
    }[keep]  # fmt: skip
    assert temporaries(hpcc_env) == []
    plain = hpcc_env / "plain"
    again = pull(registry, plain, HPCC_KEEP_BLOBS="0", HPCC_KEEP_PACKS="0")
    assert again.key == image.key
    assert sif_of(plain).read_bytes() == sif_of(hpcc_env).read_bytes()
    assert not set(DIGESTS) & {f"sha256:{name}" for name in _names(plain / "cache/oci/blobs/sha256")}
    assert _names(plain / "cache/packs-v1") == []


# -- many at once ------------------------------------------------------------------------------------------------


def command(home: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "hpcc", *argv]


def environ_of(home: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, **isolated(home), "HPCC_NOHTTPS": "1", "HPCC_KEEP_BLOBS": "1", "HPCC_KEEP_PACKS": "1", **more}


def run(home: Path, *argv: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(home, *argv), env=environ_of(home, **environ), cwd=home, capture_output=True, text=True, timeout=120
    )


def start(home: Path, *argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(home, *argv), env=environ_of(home), cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_many_processes_pull_once(fake, hpcc_env: Path) -> None:
    registry = fake(index=True, faults=Faults(delay=0.05))
    processes = [start(hpcc_env, "pull", f"{n}.sif", uri_of(registry)) for n in range(6)]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, told
    assert registry.counts["manifest_head"] <= 2
    assert registry.counts["manifest_get"] <= 2
    asked = [path for method, path in registry.requests if "/blobs/" in path]
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 1 + len(LAYERS)
    assert len({(hpcc_env / f"{n}.sif").read_bytes() for n in range(6)}) == 1
    assert temporaries(hpcc_env) == []
    assert any("Waiting for " in stderr for _, stderr in told)


def test_many_processes_at_a_real_registry(docker_registry: DockerRegistry, hpcc_env: Path) -> None:
    pushed = docker_registry.push(NAME, "only", LAYERS, config_of(LAYERS))
    docker_registry.push_index(NAME, "1", [(pushed, {"os": "linux", "architecture": ARCHITECTURE})])
    before = len(docker_registry.requests())
    uri = f"docker://{docker_registry.host}/{NAME}:1"
    processes = [start(hpcc_env, "pull", f"{n}.sif", uri) for n in range(4)]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    asked = [(method, path) for method, path, _ in docker_registry.requests()[before:]]
    assert sorted(asked) == sorted(set(asked))
    assert len([path for method, path in asked if method == "GET" and "/manifests/" in path]) == 2
    assert len([path for method, path in asked if method == "HEAD"]) == 1
    assert len([path for method, path in asked if "/blobs/" in path]) == 1 + len(LAYERS)
    done = run(hpcc_env, "pull", f"docker://{docker_registry.host}/{NAME}@{pushed}")
    assert done.returncode == 0, done.stderr
    assert (hpcc_env / f"tools_{pushed.replace(':', '.')}.sif").read_bytes() == (hpcc_env / "0.sif").read_bytes()


# -- damage ------------------------------------------------------------------------------------------------------


def _overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_a_hostile_layer_is_named(fake, hpcc_env: Path) -> None:
    """The image, which of its layers, what in it and where; and nothing of it is kept."""
    registry = fake()
    layers = [LAYERS[0], tar_layer({"good": b"x", "../../etc/passwd": b"y"})]
    registry.add_image(NAME, "bad", layers, config_of(layers))
    with pytest.raises(InvalidImage) as caught:
        pull(registry, hpcc_env, tag="bad")
    digest = f"sha256:{hashlib.sha256(layers[1]).hexdigest()}"
    assert caught.value.message == (
        f"{uri_of(registry, 'bad')}: layer {digest}: member ../../etc/passwd points outside the image,"
        " at byte 1536 of the tar"
    )
    kept = files_below(hpcc_env / "cache")
    assert not [name for name in kept if "sif-v1" in name or digest.removeprefix("sha256:") in name]
    assert temporaries(hpcc_env) == []


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"x",
    "altered": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "end": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_blobs_are_fetched_again(fake, hpcc_env: Path, damage: str) -> None:
    registry = fake(index=True)
    pull(registry, hpcc_env)
    whole = files_below(hpcc_env / "cache")
    sif = sif_of(hpcc_env).read_bytes()
    _forget_image(hpcc_env, "packs-v1")
    for blob in (hpcc_env / "cache/oci/blobs/sha256").iterdir():
        _overwrite(blob, DAMAGES[damage](blob.read_bytes()))
    registry.counts.clear()
    told = Told()
    pull(registry, hpcc_env, told=told)
    assert (registry.counts["manifest_get"], registry.counts["blob_get"]) == (2, 3)
    assert sif_of(hpcc_env).read_bytes() == sif
    after = files_below(hpcc_env / "cache")
    assert {name: after[name] for name in whole if "blobs" in name or "packs" in name} == {
        name: data for name, data in whole.items() if "blobs" in name or "packs" in name
    }
    assert temporaries(hpcc_env) == []


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "altered"])
def test_damaged_packs_are_made_again(fake, hpcc_env: Path, damage: str) -> None:
    """Data of a pack are not hashed again, so a bit that flipped there is not seen; its index and its length are."""
    registry = fake()
    pull(registry, hpcc_env)
    sif = sif_of(hpcc_env).read_bytes()
    _forget_image(hpcc_env)
    packs = {path: path.read_bytes() for path in (hpcc_env / "cache/packs-v1").iterdir()}
    for path, data in packs.items():
        _overwrite(path, DAMAGES[damage](data))
    registry.counts.clear()
    pull(registry, hpcc_env)
    assert registry.counts["blob_get"] == 0  # the blobs are there
    assert sif_of(hpcc_env).read_bytes() == sif
    assert {path: path.read_bytes() for path in packs} == packs


@pytest.mark.parametrize("damage", ["empty", "truncated", "cut by one", "no header", "another's"])
def test_damaged_sif_is_made_again(fake, hpcc_env: Path, damage: str) -> None:
    registry = fake()
    registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    other = sif_of(hpcc_env / "x") if pull(registry, hpcc_env / "x", tag="2") else None
    pull(registry, hpcc_env)
    path = sif_of(hpcc_env)
    data = path.read_bytes()
    assert other is not None
    damaged = {
        "empty": b"", "truncated": data[:5000], "cut by one": data[:-1], "no header": bytes(128) + data[128:],
        "another's": other.read_bytes(),
    }[damage]  # fmt: skip
    _overwrite(path, damaged)
    assert find_cached(Wanted.parse(uri_of(registry), settings_of(hpcc_env)), settings_of(hpcc_env)) is None
    pull(registry, hpcc_env)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 4000, "x" * 10_000, '{"name": "n"}',
        '{"name":"NAME","digest":"sha256:1","media_type":"","size":1,"checked_at":NOW}',
        '{"name":"NAME","digest":7,"media_type":"","size":1,"checked_at":NOW}',
        '{"name":"NAME","digest":"DIGEST","media_type":"","size":1,"checked_at":"now"}',
        '{"name":"NAME","digest":"DIGEST","media_type":"","size":1,"checked_at":NaN}',
        '{"name":"NAME","digest":"DIGEST","media_type":"","size":1,"checked_at":Infinity}',
        '{"name":"elsewhere/other:1","digest":"DIGEST","media_type":"","size":1,"checked_at":NOW}',
    ],
)  # fmt: skip
def test_damaged_ref_is_a_miss(fake, hpcc_env: Path, text: str) -> None:
    registry = fake()
    key = pull(registry, hpcc_env).key
    ref = hpcc_env / f"cache/refs/{registry.host}/{NAME}/_tags/1/{os.getuid()}"
    good = json.loads(ref.read_bytes())
    text = text.replace("NAME", good["name"]).replace("DIGEST", good["digest"]).replace("NOW", str(good["checked_at"]))
    _overwrite(ref, text.encode())
    assert find_cached(Wanted.parse(uri_of(registry), settings_of(hpcc_env)), settings_of(hpcc_env)) is None
    registry.counts.clear()
    assert pull(registry, hpcc_env).key == key
    assert dict(registry.counts) == {"manifest_head": 1, "token": 1}
    assert json.loads(ref.read_bytes())["digest"] == good["digest"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"manifests": null}', '{"manifests": 3}', '{"manifests": [1, {"annotations": 5}, {}]}']
)
def test_damaged_index_json_is_replaced(fake, hpcc_env: Path, text: str) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    index = hpcc_env / "cache/oci/index.json"
    _overwrite(index, text.encode())
    (hpcc_env / "cache/oci/oci-layout").unlink()
    pull(registry, hpcc_env, HPCC_TTL="0")
    names = [entry.get("annotations") for entry in json.loads(index.read_bytes())["manifests"]]
    assert {"org.opencontainers.image.ref.name": f"{registry.host}/{NAME}:1"} in names
    assert (hpcc_env / "cache/oci/oci-layout").exists()


# -- a registry that fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "gets"),
    [
        (Faults(truncate=2), 4),
        (Faults(truncate=1, no_range=True), 3),
        (Faults(alter=2), 4),
        (Faults(hang_up=2), None),
        (Faults(unavailable=2), 2),
    ],
)
def test_faults_that_pass(fake, hpcc_env: Path, faults: Faults, gets: int | None) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    sif = sif_of(hpcc_env).read_bytes()
    _forget_image(hpcc_env, "packs-v1")
    for digest in DIGESTS:
        (hpcc_env / "cache/oci/blobs" / digest.replace(":", "/")).unlink()
    registry.faults = faults._replace(delay=0.05)  # so that both layers are hit
    registry.counts.clear()
    told = Told()
    pull(registry, hpcc_env, told=told)
    assert sif_of(hpcc_env).read_bytes() == sif
    assert gets is None or registry.counts["blob_get"] == gets
    assert told.done == sum(map(len, LAYERS))
    assert _layer_blobs(hpcc_env) == set(DIGESTS)
    assert temporaries(hpcc_env) == []


def _layer_blobs(home: Path) -> set[str]:
    return set(DIGESTS) & {f"sha256:{name}" for name in _names(home / "cache/oci/blobs/sha256")}


def assert_clean(home: Path) -> None:
    """As good as before: nothing that a later pull could take for whole. Partials may be there to go on from."""
    assert [name for name in temporaries(home) if ".partial.left-" not in name] == []
    assert _names(home / "cache/sif-v1") == []
    for blob in (home / "cache/oci/blobs").rglob("*"):
        assert not blob.is_file() or Digest.of(blob.read_bytes()).hex == blob.name


def test_layer_that_is_always_altered(fake, hpcc_env: Path) -> None:
    registry = fake()
    altered = LAYERS[1][:-1] + bytes([LAYERS[1][-1] ^ 1])
    registry.blobs[DIGESTS[1]] = altered
    with pytest.raises(IntegrityError, match=f"{DIGESTS[1]}.*expected digest") as caught:
        pull(registry, hpcc_env)
    assert "alters it" in caught.value.hint and caught.value.exit_code == 255
    assert [path for _, path in registry.requests].count(f"/v2/{NAME}/blobs/{DIGESTS[1]}") == 2
    assert_clean(hpcc_env)
    registry.blobs[DIGESTS[1]] = LAYERS[1]
    assert pull(registry, hpcc_env).key


def test_layer_in_the_middle_altered(fake, hpcc_env: Path) -> None:
    """The converter sees it first, and yet the registry is named, not the image."""
    registry = fake()
    middle = len(LAYERS[1]) // 2
    registry.blobs[DIGESTS[1]] = LAYERS[1][:middle] + bytes(1000) + LAYERS[1][middle + 1000 :]
    with pytest.raises(IntegrityError, match=r"expected digest"):
        pull(registry, hpcc_env)
    assert_clean(hpcc_env)


@pytest.mark.parametrize("difference", [-7, 7])
def test_layer_of_another_size(fake, hpcc_env: Path, difference: int) -> None:
    registry = fake()
    media_type, data = registry.manifests[NAME, "1"]
    document = json.loads(data)
    document["layers"][1]["size"] += difference
    registry.add_manifest(NAME, "1", json.dumps(document).encode(), media_type)
    with pytest.raises(IntegrityError, match=f"expected {document['layers'][1]['size']} bytes"):
        pull(registry, hpcc_env)
    assert_clean(hpcc_env)


def test_layer_that_is_missing(fake, hpcc_env: Path) -> None:
    registry = fake()
    del registry.blobs[DIGESTS[0]]
    with pytest.raises(ImageNotFound, match=f"{NAME}: there is no layer {DIGESTS[0]}") as caught:
        pull(registry, hpcc_env)
    assert caught.value.hint
    assert_clean(hpcc_env)


@pytest.mark.parametrize("layer", [b"", b"no layer at all" * 100, LAYERS[0][:-9]])
def test_layer_that_is_none(fake, hpcc_env: Path, layer: bytes) -> None:
    registry = fake()
    registry.add_image(NAME, "odd", [LAYERS[1], layer], {**config_of(LAYERS), "created": "x"})
    with pytest.raises((InvalidImage, IntegrityError)):
        pull(registry, hpcc_env, tag="odd")
    assert_clean(hpcc_env)


def test_layer_that_is_not_what_the_config_says(fake, hpcc_env: Path) -> None:
    registry = fake()
    registry.add_image(NAME, "odd", LAYERS, config_of([LAYERS[0], tar_layer({"x": b"y"})]))
    with pytest.raises(IntegrityError, match="but the image's config says"):
        pull(registry, hpcc_env, tag="odd")
    assert_clean(hpcc_env)
    assert len(_names(hpcc_env / "cache/packs-v1")) <= 1  # the first layer's


EMPTY = "application/vnd.oci.empty.v1+json"
_DESCRIPTOR = {"digest": str(Digest.of(b"{}")), "size": 2}


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        (b"<html>", InvalidImage, "not JSON"),
        ({"schemaVersion": 1, "fsLayers": []}, UnsupportedImage, "schema 1"),
        ({"schemaVersion": 2, "config": {**_DESCRIPTOR, "mediaType": EMPTY}, "layers": []}, UnsupportedImage, "artif"),
        ({"schemaVersion": 2, "manifests": []}, UnsupportedImage, "no platform at all"),
        ({"schemaVersion": 2, "config": {"digest": "x"}, "layers": []}, InvalidImage, "digest"),
    ],
)
def test_manifest_that_is_no_image(fake, hpcc_env: Path, document: Any, error: type[HpccError], says: str) -> None:
    registry = fake()
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    registry.add_manifest(NAME, "odd", data, DOCKER_MANIFEST if b"fsLayers" in data else OCI_MANIFEST)
    for _ in range(2):
        with pytest.raises(error, match=f"{NAME}:odd: .*{says}") as caught:
            pull(registry, hpcc_env, tag="odd")
        assert caught.value.hint or error is InvalidImage
    assert registry.counts["manifest_get"] == (1 if error is UnsupportedImage else 2)
    assert_clean(hpcc_env)
    assert not (hpcc_env / "cache/refs").exists()


def test_config_that_is_none(fake, hpcc_env: Path) -> None:
    registry = fake()
    for config in ({"rootfs": 3}, {"rootfs": {"diff_ids": []}}):
        registry.add_image(NAME, "odd", LAYERS, config)
        with pytest.raises(InvalidImage, match=f"{NAME}:odd: "):
            pull(registry, hpcc_env, tag="odd")
    assert_clean(hpcc_env)


def test_no_platform_that_fits(fake, hpcc_env: Path) -> None:
    registry = fake(index=True)
    with pytest.raises(UnsupportedImage, match=f"{NAME}:1: .*nothing for linux/riscv64.*linux/s390x") as caught:
        open_image(uri_of(registry), settings_of(hpcc_env), arch="riscv64")
    assert "--arch" in caught.value.hint


def test_only_image_is_for_another_platform(fake, hpcc_env: Path) -> None:
    registry = fake()
    told = Told()
    image = open_image(uri_of(registry), settings_of(hpcc_env), arch="riscv64", progress=told)
    assert image.key and "not for linux/riscv64" in told.warnings[0]


@pytest.mark.parametrize("nesting", [3, 4])
def test_index_in_an_index(fake, hpcc_env: Path, nesting: int) -> None:
    registry = fake()
    data = registry.manifests[NAME, "1"][1]
    for _ in range(nesting - 1):
        entry = {"mediaType": "", "digest": str(Digest.of(data)), "size": len(data)}
        data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        registry.add_manifest(NAME, "deep", data, "application/vnd.oci.image.index.v1+json")
    if nesting == 3:
        assert pull(registry, hpcc_env, tag="deep").key == pull(registry, hpcc_env).key
    else:
        with pytest.raises(InvalidImage, match="an index in an index"):
            pull(registry, hpcc_env, tag="deep")


# -- offline -----------------------------------------------------------------------------------------------------


def test_offline_serves_what_there_is(fake, hpcc_env: Path) -> None:
    registry = fake()
    key = pull(registry, hpcc_env).key
    uri = uri_of(registry)
    registry.__exit__(None, None, None)
    told = Told()
    image = open_image(uri, settings_of(hpcc_env, HPCC_TTL="0"), progress=told)
    assert image.key == key
    (warning,) = told.warnings
    assert "Using what the cache has, as it was 0.0 hours ago" in warning and "cannot reach" in warning
    with pytest.raises(RegistryUnavailable) as caught:
        open_image(uri.removesuffix("1") + "2", settings_of(hpcc_env))
    assert caught.value.exit_code == 75 and caught.value.hint
    registry._server.server_close()


def test_quota_spent_serves_what_there_is(fake, hpcc_env: Path) -> None:
    registry = fake(quota=1)
    key = pull(registry, hpcc_env).key
    _forget_manifests = (hpcc_env / "cache/oci/blobs/sha256").iterdir()
    assert list(_forget_manifests)
    registry.add_image(NAME, "1", LAYERS[:1], config_of(LAYERS[:1]))  # the tag moves, and asking for it costs
    told = Told()
    assert pull(registry, hpcc_env, told=told, HPCC_TTL="0").key == key
    assert "429" in told.warnings[0] and "Using what the cache has" in told.warnings[0]
    registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1], created="2020-01-01T00:00:00Z"))
    with pytest.raises(RateLimited):
        pull(registry, hpcc_env, tag="2")


# -- shared with others ------------------------------------------------------------------------------------------


@pytest.mark.root
def test_damaged_sif_of_somebody_trusted(fake, hpcc_env: Path, open_dir: Path, plain_user: Person) -> None:
    """Nobody else can replace it, in a directory with the sticky bit; so there is one beside it."""
    registry = fake()
    shared = open_dir / "shared"
    shared.mkdir()
    os.chown(shared, -1, plain_user.gid)
    shared.chmod(0o3770)
    pull(registry, hpcc_env, HPCC_CACHE_DIR=str(shared))
    (path,) = (shared / "sif-v1").iterdir()
    whole = path.read_bytes()
    _overwrite(path, whole[:-10])
    home = open_dir / "home"
    home.mkdir()
    os.chown(home, plain_user.uid, plain_user.gid)
    for _ in range(2):
        asked = len(registry.requests)
        found = call_as(plain_user, lambda: pull(registry, home, HPCC_CACHE_DIR=str(shared)).path)
        assert found == str(path.with_suffix(f".{plain_user.uid}.sif"))
    assert len(registry.requests) == asked  # the second time it is there
    assert Path(found).read_bytes() == whole and path.read_bytes() == whole[:-10]
    assert _names(shared / "tmp") == []


@pytest.mark.root
def test_member_cannot_put_an_image_under_anothers_key(fake, hpcc_env: Path) -> None:
    registry = fake()
    key = pull(registry, hpcc_env).key
    path = sif_of(hpcc_env)
    os.chown(path, 54321, -1)
    assert find_cached(Wanted.parse(uri_of(registry), settings_of(hpcc_env)), settings_of(hpcc_env)) is None
    assert pull(registry, hpcc_env).key == key
    assert path.stat().st_uid == os.getuid()


def test_library_is_looked_up_first_and_never_written(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env / "site")
    library = hpcc_env / "site/cache"
    before = files_below(library)
    asked = len(registry.requests)
    image = pull(registry, hpcc_env, HPCC_LIBRARY_PATH=str(library))
    assert image.path.startswith(str(library)) and len(registry.requests) == asked
    assert files_below(library) == before and not (hpcc_env / "cache/sif-v1").exists()


# -- private -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_private_image_leaves_no_trace_where_others_look(fake, hpcc_env: Path, scheme: str) -> None:
    registry = fake(username="ann", password="s3cret", private=[NAME], scheme=scheme, index=True)
    login = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "s3cret"}
    image = pull(registry, hpcc_env, **login)
    assert image.path.startswith(str(hpcc_env / "private"))
    shared = hpcc_env / "cache"
    key = image.key
    for path in shared.rglob("*"):
        assert NAME not in str(path) and key not in str(path)
        assert not path.is_file() or NAME.encode() not in path.read_bytes()
    assert files_below(shared) == {} and _names(shared / "locks") == []
    assert set(DIGESTS) <= {f"sha256:{name}" for name in _names(hpcc_env / "private/oci/blobs/sha256")}
    index = json.loads((hpcc_env / "private/oci/index.json").read_bytes())
    assert len(index["manifests"]) == 1
    asked = len(registry.requests)
    assert pull(registry, hpcc_env, **login).path == image.path
    assert len(registry.requests) == asked
    for path in [hpcc_env / "private", *(hpcc_env / "private").rglob("*")]:
        assert path.is_file() or path.stat().st_mode & 0o777 == 0o700
        assert not path.is_file() or b"s3cret" not in path.read_bytes()
    with pytest.raises(AccessDenied):
        pull(registry, hpcc_env / "other")


def test_public_image_of_somebody_with_an_account_is_shared(fake, hpcc_env: Path) -> None:
    registry = fake(username="ann", password="s3cret", private=["group/other"])
    image = pull(registry, hpcc_env, HPCC_DOCKER_USERNAME="ann", HPCC_DOCKER_PASSWORD="s3cret")
    assert image.path.startswith(str(hpcc_env / "cache"))


def test_blobs_that_are_shared_already_count_for_a_private_image(fake, hpcc_env: Path) -> None:
    registry = fake(username="ann", password="s3cret", private=["group/hidden"])
    pull(registry, hpcc_env)
    registry.add_image("group/hidden", "1", LAYERS, config_of(LAYERS))
    settings = settings_of(hpcc_env, HPCC_DOCKER_USERNAME="ann", HPCC_DOCKER_PASSWORD="s3cret")
    fetched = registry.counts["blob_get"]
    image = open_image(f"docker://{registry.host}/group/hidden:1", settings)
    assert image.path.startswith(str(hpcc_env / "private"))
    assert registry.counts["blob_get"] == fetched
    assert not (hpcc_env / "private/oci/index.json").exists()  # which lists only what is whole there
    assert not [path for path in (hpcc_env / "cache").rglob("*") if "hidden" in str(path)]


# -- interruption ------------------------------------------------------------------------------------------------


@pytest.fixture
def stalling(fake) -> Iterator[tuple[FakeRegistry, StallingStorage]]:
    registry = fake()
    with StallingStorage(registry.blobs) as storage:
        yield registry, storage


def _stall(registry: FakeRegistry, storage: StallingStorage, home: Path) -> "subprocess.Popen[str]":
    """A pull whose downloads hang in the middle of the layers."""
    config = json.loads(registry.manifests[NAME, "1"][1])["config"]["digest"]
    real = registry._server.RequestHandlerClass._blob  # the config comes, the layers are redirected

    def blob(handler: Any, digest: str) -> None:
        if digest == config:
            return real(handler, digest)
        return handler._send(307, b"", {"Location": f"{storage.url}{handler.path}"})

    registry._server.RequestHandlerClass = type("Handler", (registry._server.RequestHandlerClass,), {"_blob": blob})
    process = start(home, "pull", "x.sif", uri_of(registry))
    assert storage.stalled.wait(30), process.kill() or process.communicate()
    deadline = time.monotonic() + 10
    while not any(os.path.getsize(home / "cache/tmp" / n) >= PARTIAL_SIZE for n in _names(home / "cache/tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_redirected_storage_sees_no_authorization(stalling, hpcc_env: Path) -> None:
    registry, storage = stalling
    storage.go.set()
    registry.faults = Faults(redirect=storage.url)
    pull(registry, hpcc_env)
    assert len(storage.headers) == 3
    assert not any("Authorization" in headers for headers in storage.headers)
    assert any("/manifests/" in path for path in registry.authorised)


def test_ctrl_c(stalling, hpcc_env: Path) -> None:
    registry, storage = stalling
    process = _stall(registry, storage, hpcc_env)
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - before < 5, "Ctrl-C must not wait for a connection that hangs"
    assert process.returncode == 130 and "interrupted" in stderr and "Traceback" not in stderr
    (left,) = temporaries(hpcc_env)  # of the layer that is worth it; whole blobs are published, the rest is gone
    assert ".partial.left-" in left
    have = (hpcc_env / "cache/tmp" / left).stat().st_size
    assert_clean(hpcc_env)
    assert not (hpcc_env / "x.sif").exists()
    storage.go.set()
    storage.headers.clear()
    done = run(hpcc_env, "pull", "x.sif", uri_of(registry))
    assert done.returncode == 0, done.stderr
    assert f"bytes={have}-" in [headers.get("Range") for headers in storage.headers]
    assert temporaries(hpcc_env) == []


def test_kill(stalling, hpcc_env: Path) -> None:
    registry, storage = stalling
    process = _stall(registry, storage, hpcc_env)
    process.kill()
    process.communicate(timeout=60)
    assert temporaries(hpcc_env) != []  # nobody could remove them
    assert _names(hpcc_env / "cache/sif-v1") == [] and not _layer_blobs(hpcc_env)
    storage.go.set()
    storage.headers.clear()
    done = run(hpcc_env, "pull", "x.sif", uri_of(registry))
    assert done.returncode == 0, done.stderr
    assert any(headers.get("Range", "").startswith("bytes=") for headers in storage.headers)
    assert temporaries(hpcc_env) == []
    assert registry.counts["manifest_get"] == 1


def test_waiters_take_over_from_a_killed_pull(stalling, hpcc_env: Path) -> None:
    registry, storage = stalling
    process = _stall(registry, storage, hpcc_env)
    waiter = start(hpcc_env, "pull", "y.sif", uri_of(registry))
    time.sleep(1.5)
    assert waiter.poll() is None
    storage.go.set()
    process.kill()
    process.communicate(timeout=60)
    _, stderr = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, stderr
    assert f"process {process.pid}" in stderr
    assert temporaries(hpcc_env) == []


# -- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "hint", "options"),
    [
        (255, "hpcc registry login", {"private": [NAME], "username": "ann", "password": "s3cret"}),
        (75, "log in", {"quota": 0}),
        (75, "Try again", {"faults": Faults(unavailable=-1)}),
    ],
)
def test_exit_codes(fake, hpcc_env: Path, status: int, hint: str, options: dict[str, Any]) -> None:
    done = run(hpcc_env, "pull", uri_of(fake(**options)))
    assert done.returncode == status, done.stderr
    assert "FATAL:" in done.stderr and hint in done.stderr and "Traceback" not in done.stderr
    assert NAME in done.stderr or "refuses more requests" in done.stderr
    assert_clean(hpcc_env)


def test_unknown_image_and_registry(fake, hpcc_env: Path) -> None:
    registry = fake()
    done = run(hpcc_env, "pull", uri_of(registry, "9"))
    assert done.returncode == 255 and f"{NAME}: there is no image 9" in done.stderr
    done = run(hpcc_env, "pull", "docker://127.0.0.1:1/a:1")
    assert done.returncode == 75 and "refuse" in done.stderr and "Traceback" not in done.stderr
    done = run(hpcc_env, "pull", "docker://no-such-host.invalid/a:1")
    assert done.returncode == 75 and "no-such-host.invalid" in done.stderr and "Traceback" not in done.stderr
    done = run(hpcc_env, "pull", uri_of(registry), HPCC_NOHTTPS="0")
    assert done.returncode == 75 and "--no-https" in done.stderr and "Traceback" not in done.stderr


def test_password_is_in_no_message(fake, hpcc_env: Path) -> None:
    registry = fake(username="ann", password="right", private=[NAME])
    login = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "wrong-s3cret"}
    done = run(hpcc_env, "--debug", "pull", uri_of(registry), **login)
    assert done.returncode != 0 and "Traceback" in done.stderr
    assert "wrong-s3cret" not in done.stderr + done.stdout


# -- places that cannot be written -------------------------------------------------------------------------------


def _in_mount_namespace(home: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """A shell script, as root, whose mounts nobody else sees; $HPCC is the command."""
    environ = environ_of(home, HPCC=" ".join(command(home)))
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-euc", script], env=environ, cwd=home,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("size", ["300k", "1m", "3m", "6m"])
def test_full_disk(fake, hpcc_env: Path, size: str) -> None:
    """That shows in the writes alone, as with a quota, or where somebody else fills it meanwhile."""
    registry = fake()
    (hpcc_env / "cache").mkdir()
    blind = hpcc_env / "blind.py"
    blind.write_text(
        "import hpcc.making\nfrom hpcc.cli import console\nhpcc.making.check_room = lambda *_: None\nconsole()\n"
    )
    done = _in_mount_namespace(
        hpcc_env,
        f"mount -t tmpfs -o size={size} tmpfs cache; status=0; "
        f"{sys.executable} {blind} pull x.sif {uri_of(registry)} || status=$?; find cache -type f; exit $status",
    )
    assert done.returncode == 255, done.stderr
    assert "No space left" in done.stderr and "HINT:" in done.stderr and "Traceback" not in done.stderr
    assert "/tmp/" not in done.stdout and "/sif-v1/" not in done.stdout
    assert not (hpcc_env / "x.sif").exists()


@pytest.mark.root
def test_read_only_cache(fake, hpcc_env: Path) -> None:
    registry = fake()
    (hpcc_env / "cache").mkdir()
    read_only = "mount --bind cache cache; mount -o remount,ro,bind cache; "
    done = _in_mount_namespace(hpcc_env, f"{read_only} $HPCC pull x.sif {uri_of(registry)}")
    assert done.returncode == 255 and "Read-only file system" in done.stderr and "HPCC_CACHE_DIR" in done.stderr
    assert files_below(hpcc_env / "cache") == {}
    pull(registry, hpcc_env)
    before = files_below(hpcc_env / "cache")
    done = _in_mount_namespace(hpcc_env, f"{read_only} $HPCC pull x.sif {uri_of(registry)}")
    assert done.returncode == 0 and "Using cached SIF image" in done.stderr, done.stderr
    assert (hpcc_env / "x.sif").read_bytes() == sif_of(hpcc_env).read_bytes()
    done = _in_mount_namespace(hpcc_env, f"{read_only} HPCC_TTL=0 $HPCC pull y.sif {uri_of(registry)}")
    assert done.returncode in (0, 255) and "Traceback" not in done.stderr
    assert files_below(hpcc_env / "cache") == before


def test_cache_directory_that_is_a_file(fake, hpcc_env: Path) -> None:
    (hpcc_env / "cache").write_text("not a directory")
    done = run(hpcc_env, "pull", "x.sif", uri_of(fake()))
    assert done.returncode == 255 and "Traceback" not in done.stderr
    assert str(hpcc_env / "cache") in done.stderr and "HPCC_CACHE_DIR" in done.stderr


def test_reference_that_does_not_parse(hpcc_env: Path) -> None:
    for uri in ("docker://UPPER", "docker://a:b:c/d", "docker://"):
        done = run(hpcc_env, "pull", uri)
        assert done.returncode == 255 and "FATAL:" in done.stderr and "Traceback" not in done.stderr
        with pytest.raises(HpccError):
            Reference.parse(uri)
