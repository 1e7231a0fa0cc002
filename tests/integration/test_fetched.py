"""http://, https://, library://, oras://: fetched once, resumed, asked again; and servers that lie."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc import fetching
from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    IntegrityError,
    InvalidImage,
    InvalidReference,
    PolicyError,
    RegistryError,
    RegistryUnavailable,
    UnsupportedImage,
    UsageError,
)
from hpcc.image import open_image
from hpcc.registry import transport
from hpcc.registry.web import Web
from hpcc.sources.agents import Named, file_name
from hpcc.sources.library import LibraryName
from tests.support.archives import new_save, tar_of
from tests.support.docker_registry import DockerRegistry
from tests.support.layers import convert
from tests.support.pulls import ARCHITECTURE, LAYERS, Told, config_of, files_below, noise, settings_of, tar_layer
from tests.support.webserver import FakeLibrary, WebServer

SIF = convert([tar_layer({"a": noise(3_000_000, 3), "etc/b": b"of a SIF"})])
OTHER = convert([tar_layer({"a": b"another"})])
DIGEST = hashlib.sha256(SIF).hexdigest()
CONFIG = config_of(LAYERS)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.01)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        server.files["/x.sif"] = SIF
        yield server


@pytest.fixture
def library() -> Iterator[FakeLibrary]:
    with FakeLibrary() as server:
        server.images["lab/group/tools", "1.4", ARCHITECTURE] = SIF
        server.images["library/default/alpine", "latest", ARCHITECTURE] = OTHER
        yield server


class Opened:
    def __init__(self, uri: str, home: Path, told: Told | None = None, **environ: str) -> None:
        image = open_image(uri, settings_of(home, **environ), progress=told or Told())
        self.key, self.path, self.name = image.key, image.path, image.name
        self.sif = os.pread(image.rootfs.fd, 1 << 30, 0)
        os.close(image.rootfs.fd)


def left(home: Path) -> list[str]:
    """What a failure must not leave: images, and files under their names."""
    found = []
    for tier in ("cache", "private"):
        below = files_below(home / tier) if (home / tier).exists() else {}
        found += [path for path, data in below.items() if path.startswith(("sif", "tmp", "refs")) or len(data) > 10_000]
    return found


# -- http --------------------------------------------------------------------------------------------------------------


def test_a_sif_is_kept_as_it_is(web: WebServer, tmp_path: Path) -> None:
    """Within the ttl nothing is sent; after it, only a question; what has changed is fetched."""
    told = Told()
    assert Opened(f"{web.url}/x.sif", tmp_path, told).sif == SIF and told.done == len(SIF)
    assert Opened(f"{web.url}/x.sif", tmp_path).sif == SIF and len(web.asked) == 1
    assert Opened(f"{web.url}/x.sif", tmp_path, HPCC_TTL="0").sif == SIF
    assert [status for *_, status in web.asked] == [200, 304]
    web.files["/x.sif"] = OTHER
    assert Opened(f"{web.url}/x.sif", tmp_path).sif == SIF
    assert Opened(f"{web.url}/x.sif", tmp_path, HPCC_PULL="always").sif == OTHER
    web.status = 503
    told = Told()
    assert Opened(f"{web.url}/x.sif", tmp_path, told, HPCC_TTL="0").sif == OTHER
    assert "Using what the cache has" in told.warnings[0]
    assert Opened(f"{web.url}/x.sif", tmp_path, HPCC_OFFLINE="1", HPCC_TTL="0").sif == OTHER


@pytest.mark.parametrize("kind", ["docker", "oci", "gzip"])
def test_an_archive_is_converted(web: WebServer, tmp_path: Path, kind: str) -> None:
    files = new_save(LAYERS, CONFIG, ["lab/tools:1"])
    if kind == "oci":
        del files["manifest.json"]
    data = tar_of(files)
    (tmp_path / "here.tar").write_bytes(data)
    web.files["/x.tar"] = gzip.compress(data, 1) if kind == "gzip" else data
    found = Opened(f"{web.url}/x.tar", tmp_path)
    agent = "oci-archive" if kind == "oci" else "docker-archive"
    assert found.sif == Opened(f"{agent}:{tmp_path}/here.tar", tmp_path / "other").sif
    assert Opened(f"{web.url}/x.tar", tmp_path).key == found.key and len(web.asked) == 1


@pytest.mark.parametrize("cuts", [[1_000_000], [100_000, 2_000_000, 0], [2_500_000] * 3])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on(web: WebServer, tmp_path: Path, cuts: list[int], ranges: bool) -> None:
    web.cuts, web.ranges = list(cuts), ranges
    told = Told()
    assert Opened(f"{web.url}/x.sif", tmp_path, told).sif == SIF and told.done == len(SIF)
    assert any(status == 206 for *_, status in web.asked) is ranges


def test_a_later_try_goes_on_from_what_an_earlier_one_left(web: WebServer, tmp_path: Path) -> None:
    web.cuts = [1_500_000, 0, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(RegistryUnavailable, match="only 1500000 bytes came"):
        Opened(f"{web.url}/x.sif", tmp_path)
    web.cuts, before = [], len(web.asked)
    assert Opened(f"{web.url}/x.sif", tmp_path).sif == SIF
    assert web.asked[before:][-1][1:] == ("bytes=1500000-", 206)
    assert os.listdir(tmp_path / "cache/tmp") == []


def test_what_changes_meanwhile_is_not_mixed(web: WebServer, tmp_path: Path) -> None:
    web.cuts = [1_000_000]
    real = web.answer

    def change(handler: Any) -> None:
        real(handler)
        web.files["/x.sif"] = OTHER

    web.answer = change  # type: ignore[method-assign]
    with pytest.raises(RegistryUnavailable, match="was changed while it was fetched"):
        Opened(f"{web.url}/x.sif", tmp_path)
    assert Opened(f"{web.url}/x.sif", tmp_path).sif == OTHER


def test_without_lengths_and_tags(web: WebServer, tmp_path: Path) -> None:
    web.lengths = web.etags = False
    assert Opened(f"{web.url}/x.sif", tmp_path).sif == SIF
    web.cuts = [2_000_000]  # nobody can tell but the SIF itself
    with pytest.raises(HpccError):
        Opened(f"{web.url}/x.sif", tmp_path / "other")


def test_digests(web: WebServer, tmp_path: Path) -> None:
    assert Opened(f"{web.url}/x.sif#sha256={DIGEST}", tmp_path).sif == SIF
    with pytest.raises(IntegrityError, match=f"expected digest sha256:{'0' * 64}, found sha256:{DIGEST}"):
        Opened(f"{web.url}/x.sif#sha256={'0' * 64}", tmp_path / "other")
    assert left(tmp_path / "other") == []
    with pytest.raises(UsageError, match="sha256 has 64 digits"):
        Opened(f"{web.url}/x.sif#sha256=12", tmp_path)


def test_frozen_takes_what_has_a_digest_alone(web: WebServer, library: FakeLibrary, tmp_path: Path) -> None:
    env = {"HPCC_FROZEN": "1", "HPCC_LIBRARY_URL": library.url}
    for uri in (f"{web.url}/x.sif", "library://lab/group/tools:1.4", "oras://127.0.0.1:1/lab/sif:1"):
        with pytest.raises(UsageError, match="names no digest"):
            Opened(uri, tmp_path, **env)
    assert Opened(f"{web.url}/x.sif#sha256={DIGEST}", tmp_path, **env).sif == SIF
    library.images["lab/group/tools", f"sha256.{DIGEST}", ARCHITECTURE] = SIF
    assert Opened(f"library://lab/group/tools:sha256.{DIGEST}", tmp_path, **env).sif == SIF
    library.images["lab/group/tools", f"sha256.{'0' * 64}", ARCHITECTURE] = SIF
    with pytest.raises(IntegrityError, match="the library has"):
        Opened(f"library://lab/group/tools:sha256.{'0' * 64}", tmp_path, **env)


def test_redirects_are_followed(web: WebServer, tmp_path: Path) -> None:
    web.redirects["/latest"] = f"{web.url}/x.sif"
    assert Opened(f"{web.url}/latest", tmp_path).sif == SIF


def test_signed_urls_are_private(web: WebServer, tmp_path: Path) -> None:
    assert Opened(f"{web.url}/x.sif?signature=secret", tmp_path).sif == SIF
    assert not (tmp_path / "cache").exists()
    web.status = 403
    with pytest.raises(AccessDenied) as raised:
        Opened(f"{web.url}/y.sif?signature=secret", tmp_path)
    assert "secret" not in raised.value.message + raised.value.hint


PAGE = b"<html><body>Please log in</body></html>" * 20
BAD: dict[str, tuple[str, dict[str, Any], dict[str, str], type[HpccError], str]] = {
    "missing": ("/y.sif", {}, {}, ImageNotFound, "there is no"),
    "forbidden": ("/x.sif", {"status": 403}, {}, AccessDenied, "the server says no"),
    "down": ("/x.sif", {"status": 502}, {}, RegistryUnavailable, "answers 502"),
    "page": ("/page", {"files": {"/page": PAGE}}, {}, InvalidImage, "what it gives is no image"),
    "empty": ("/empty", {"files": {"/empty": b""}}, {}, InvalidImage, "what it gives is no image"),
    "half a SIF": ("/half", {"files": {"/half": SIF[:100_000]}}, {}, InvalidImage, "what it gives is no image"),
    "half a tar": ("/half", {"files": {"/half": tar_of({"a": noise(9999)})[:2000]}}, {}, InvalidImage, "in the middle"),
    "too large": ("/x.sif", {}, {"HPCC_MAX_IMAGE": "1MB"}, PolicyError, "has 3 MB, this site allows 1 MB"),
    "too large, unsaid": ("/x.sif", {"lengths": False}, {"HPCC_MAX_IMAGE": "1MB"}, PolicyError, "more than 1 MB"),
    "not allowed": ("/x.sif", {}, {"HPCC_ALLOWED_REGISTRIES": "quay.io"}, PolicyError, "does not allow images"),
    "offline": ("/x.sif", {}, {"HPCC_OFFLINE": "1"}, ImageNotFound, "nobody is asked"),
    "never": ("/x.sif", {}, {"HPCC_PULL": "never"}, ImageNotFound, "nobody is asked"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_goes_wrong(web: WebServer, tmp_path: Path, name: str) -> None:
    path, changed, environ, kind, words = BAD[name]
    for key, value in changed.items():
        setattr(web, key, value)
    with pytest.raises(kind, match=words) as raised:
        Opened(f"{web.url}{path}", tmp_path, **environ)
    assert "Traceback" not in raised.value.message
    assert [path for path in left(tmp_path) if path.startswith(("sif", "tmp"))] == []


def test_no_file_name_is_in_what_is_no_url() -> None:
    with pytest.raises(UsageError, match="is no http:// or https:// URL"):
        file_name(Named("http", "http://[::1"))


def test_urls_that_are_none(tmp_path: Path) -> None:
    for uri, words in (
        ("http://", "no http:// or https:// URL"),
        ("http://ann:secret@127.0.0.1:1/x.sif", "has an account in it"),
        ("http://127.0.0.1:1/x.sif", "refuses"),
    ):
        with pytest.raises(HpccError) as raised:
            Opened(uri, tmp_path)
        assert words in raised.value.message and "secret" not in raised.value.message, raised.value.message


# -- libraries ---------------------------------------------------------------------------------------------------------


def test_library(library: FakeLibrary, tmp_path: Path) -> None:
    env = {"HPCC_LIBRARY_URL": library.url}
    assert Opened("library://lab/group/tools:1.4", tmp_path, **env).sif == SIF
    asked = len(library.asked)
    assert Opened("library:lab/group/tools:1.4", tmp_path, **env).sif == SIF and len(library.asked) == asked
    assert Opened("library://alpine", tmp_path, **env).sif == OTHER
    assert Opened("library://library/default/alpine:latest", tmp_path, APPTAINER_LIBRARY=library.url).sif == OTHER
    asked = len(library.asked)
    assert Opened("library://lab/group/tools:1.4", tmp_path, HPCC_TTL="0", **env).sif == SIF
    assert len(library.asked) == asked + 1  # the hash is the same, so nothing is fetched
    assert not (tmp_path / "private").exists()


def test_a_librarys_token_goes_to_it_alone_and_makes_it_private(
    library: FakeLibrary, web: WebServer, tmp_path: Path
) -> None:
    library.token = "secret-token"
    env = {"HPCC_LIBRARY_URL": library.url}
    with pytest.raises(AccessDenied, match="Unauthorized"):
        Opened("library://lab/group/tools:1.4", tmp_path, **env)
    web.files["/store"] = SIF
    name = f"/v1/imagefile/lab/group/tools:1.4?arch={ARCHITECTURE}"
    library.redirects[name] = f"{web.url}/store"
    assert Opened("library://lab/group/tools:1.4", tmp_path, HPCC_LIBRARY_TOKEN="secret-token", **env).sif == SIF
    assert web.authorisations == [""] and not (tmp_path / "cache/oci").exists()


def test_a_librarys_token_goes_to_no_other_that_a_name_asks_for(
    library: FakeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []

    def web(url: str, **options: Any) -> Web:
        made.append((url, options["token"]))
        return Web(library.url, **options)

    monkeypatch.setattr(fetching, "Web", web)
    env = {"HPCC_LIBRARY_URL": library.url, "HPCC_LIBRARY_TOKEN": "secret-token"}
    Opened("library://alpine", tmp_path, **env)
    with pytest.raises(HpccError):
        Opened("library://elsewhere.example/lab/group/tools:1.4", tmp_path, **env)
    assert made == [(library.url, "secret-token"), ("http://elsewhere.example", "")]


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"hash": f"sha256.{'0' * 64}"}, IntegrityError, "expected digest"),
        ({"uploaded": False}, UnsupportedImage, "was not uploaded to the end"),
        ({"size": "many"}, RegistryError, "does not answer as a library would"),
    ],
)
def test_libraries_that_lie(
    library: FakeLibrary, tmp_path: Path, changed: dict[str, Any], kind: type[HpccError], words: str
) -> None:
    library.changed = changed
    with pytest.raises(kind, match=words):
        Opened("library://lab/group/tools:1.4", tmp_path, HPCC_LIBRARY_URL=library.url)
    assert left(tmp_path) == []


def test_what_a_library_has_not(library: FakeLibrary, web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match=f"has no library://lab/group/tools:2 for {ARCHITECTURE}"):
        Opened("library://lab/group/tools:2", tmp_path, HPCC_LIBRARY_URL=library.url)
    web.files["/v1/images/lab/group/tools:1.4"] = PAGE
    with pytest.raises(RegistryError, match="does not answer as a library would"):
        Opened("library://lab/group/tools:1.4", tmp_path, HPCC_LIBRARY_URL=web.url)


def test_names_in_libraries() -> None:
    there = "https://library.sylabs.io"
    for text, path, version in (
        ("alpine", "library/default/alpine", "latest"),
        ("lab/tools:1.4", "lab/default/tools", "1.4"),
        ("a/b/c:sha256.12ab", "a/b/c", "sha256.12ab"),
        (f"a/b/c@sha256:{'ab' * 32}", "a/b/c", f"sha256.{'ab' * 32}"),
    ):
        assert LibraryName.parse(text, there) == (there, path, version)
    assert LibraryName.parse("x.example/a/b/c", there) == ("https://x.example", "a/b/c", "latest")
    assert LibraryName.parse("x.example/a/b/c", there, plain=True).endpoint == "http://x.example"
    assert LibraryName.parse("a/b/c", there, plain=True).endpoint == there
    for text in ("a/b/c/d", "a//c", "a/../c", "a b", "a/b/c:", "ä"):
        with pytest.raises(InvalidReference):
            LibraryName.parse(text, there)


# -- oras --------------------------------------------------------------------------------------------------------------


def push_sif(registry: DockerRegistry, data: bytes, tag: str, **layer: str) -> str:
    kind = layer.get("kind", "application/vnd.sylabs.sif.layer.v1.sif")
    config = {"mediaType": "application/vnd.sylabs.sif.config.v1+json", **registry.push_blob("lab/sif", b"{}")}
    layers = [{"mediaType": kind, **registry.push_blob("lab/sif", data)}]
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers}
    return registry.push_manifest("lab/sif", tag, json.dumps(manifest).encode(), media)


def test_oras(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    digest = push_sif(docker_registry, SIF, "1")
    uri = f"oras://{docker_registry.host}/lab/sif:1"
    assert Opened(uri, tmp_path).sif == SIF
    asked = len(docker_registry.requests())
    assert Opened(uri, tmp_path).sif == SIF
    assert Opened(f"oras:{docker_registry.host}/lab/sif@{digest}", tmp_path).sif == SIF
    assert len(docker_registry.requests()) == asked
    push_sif(docker_registry, OTHER, "1")
    assert Opened(uri, tmp_path).sif == SIF and Opened(uri, tmp_path, HPCC_PULL="always").sif == OTHER
    with pytest.raises(ImageNotFound, match="there is no image 2"):
        Opened(f"oras://{docker_registry.host}/lab/sif:2", tmp_path)
    docker_registry.push("lab/sif", "image", LAYERS, CONFIG)
    with pytest.raises(UnsupportedImage, match="this is an image of layers, no SIF"):
        Opened(f"oras://{docker_registry.host}/lab/sif:image", tmp_path)
    push_sif(docker_registry, PAGE, "page")
    with pytest.raises(InvalidImage, match="what it gives is no image"):
        Opened(f"oras://{docker_registry.host}/lab/sif:page", tmp_path)


# -- shub --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["shub://vsoch/hello-world", "shub:vsoch/hello-world"])
def test_singularity_hub_is_closed(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UnsupportedImage, match="Singularity Hub was closed in 2021"):
        Opened(uri, tmp_path)
