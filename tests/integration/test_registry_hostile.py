"""Pulls from a registry that means ill, or is broken in earnest: each ends soon and in little memory, says whose fault
it is, and leaves the cache as it was. What the client does about faults that pass is in test_registry_client.py.
"""

import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import HpccError, IntegrityError, InvalidImage, RegistryError, RegistryUnavailable, UnsupportedImage
from hpcc.image import open_image
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_INDEX
from hpcc.oci.platform import Platform
from hpcc.oci.reference import Reference
from hpcc.registry import connections, transport
from hpcc.registry.fake import FakeRegistry, Faults
from hpcc.sources.docker import connect, find_image
from tests.support.pulls import config_of, files_below, noise, settings_of, tar_layer

NAME = "group/tools"
LAYERS = [tar_layer({"a": noise(30_000, 5)})]
FEW_BYTES = 64 << 20  # of memory: more than any bound of hpcc's, far less than an endless body brings
SOON = 20.0  # seconds, on a machine that is busy with other tests

pytestmark = pytest.mark.usefixtures("hpcc_env")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, hpcc_env: Path) -> Iterator[FakeRegistry]:
    """A registry with NAME:1, which the cache has, and NAME:2, which it has not."""
    monkeypatch.setattr(transport, "PAUSE", 0.005)
    monkeypatch.setattr(connections, "SLOWEST", (0.2, 4096))
    with FakeRegistry() as registry:
        first = [tar_layer({"first": b"1"})]
        registry.add_image(NAME, "1", first, config_of(first))
        registry.add_image(NAME, "2", LAYERS, config_of(LAYERS))
        pull(registry, hpcc_env, "1")
        registry.requests.clear()
        yield registry


def pull(server: FakeRegistry, home: Path, tag: str) -> None:
    # As often as a test likes: what this host remembers of the registry's last failure must not count.
    image = open_image(f"docker://{server.host}/{NAME}:{tag}", settings_of(home, HPCC_PULL="always"))
    os.close(image.rootfs.fd)


def refused(server: FakeRegistry, home: Path, error: type[HpccError], says: str) -> HpccError:
    """A pull of NAME:2 fails so, in bounds, and the next one, from a registry that is well again, does not."""
    before = files_below(home / "cache")
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(error, match=says) as caught:
            pull(server, home, "2")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < SOON and peak < FEW_BYTES
    assert server.host in caught.value.message and NAME in caught.value.message
    assert len(server.requests) < 40
    _assert_as_before(home, before)
    server.faults = Faults()
    pull(server, home, "2")
    return caught.value


def _assert_as_before(home: Path, before: dict[str, bytes]) -> None:
    """All that was there; beside it only what is true: blobs that are what they are called, and nothing whole."""
    after = files_below(home / "cache")
    assert {name: after.get(name) for name in before if "limits" not in name} == {
        name: data for name, data in before.items() if "limits" not in name
    }
    for name in set(after) - set(before):
        kind = name.split("/")[0]
        assert kind in ("oci", "refs", "limits", "partial"), name
        if name.startswith("oci/blobs/"):
            assert Digest.of(after[name]).hex == name.rpartition("/")[2]


# -- bodies that are not what their headers say --------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error", "says"),
    [
        (Faults(only="manifests", length_off=-7), IntegrityError, "expected digest"),
        (Faults(only="manifests", length_off=7), RegistryUnavailable, "broke"),
        (Faults(only="blobs", length_off=-7), IntegrityError, "bytes, found"),
        (Faults(only="blobs", cut_at=0, truncate=-1), RegistryUnavailable, "only 0 of"),
        (Faults(only="blobs", cut_at=1, truncate=-1, no_range=True), RegistryUnavailable, "only 1 of"),
        (Faults(only="token", length_off=7), RegistryUnavailable, "broke"),
    ],
)
def test_length_that_lies(server: FakeRegistry, hpcc_env: Path, faults: Faults, error: Any, says: str) -> None:
    server.faults = faults
    refused(server, hpcc_env, error, says)


def test_length_of_a_blob_that_is_too_long(server: FakeRegistry, hpcc_env: Path) -> None:
    """All of the layer comes before the connection breaks, and its digest is right."""
    server.faults = Faults(only="blobs", length_off=7)
    pull(server, hpcc_env, "2")


@pytest.mark.parametrize(
    ("only", "error", "says"),
    [
        ("manifests", IntegrityError, "a manifest of more than 4194304 bytes"),
        ("blobs", IntegrityError, "bytes, found"),
        ("token", RegistryError, "without a token"),
    ],
)
def test_endless(server: FakeRegistry, hpcc_env: Path, only: str, error: Any, says: str) -> None:
    server.faults = Faults(only=only, endless=True)
    refused(server, hpcc_env, error, says)


def test_endless_error(server: FakeRegistry, hpcc_env: Path) -> None:
    """Its first words are told, and no more of it is read."""
    server.faults = Faults(only="errors", endless=True, unavailable=-1)
    error = refused(server, hpcc_env, RegistryUnavailable, "answers 503")
    assert len(error.message) < 1000


@pytest.mark.parametrize("only", ["manifests", "blobs", "token", "errors"])
def test_trickle(server: FakeRegistry, hpcc_env: Path, only: str) -> None:
    """A byte now and then keeps no timeout from passing, but is no download."""
    server.faults = Faults(only=only, trickle=0.02, unavailable=-1 if only == "errors" else 0)
    refused(server, hpcc_env, RegistryUnavailable, "broke|only|answers 503")


# -- answers that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error", "says"),
    [
        (Faults(only="manifests", error_as_ok=True), HpccError, "not an image|digest"),
        (Faults(only="blobs", error_as_ok=True), IntegrityError, "expected .* found"),
        (Faults(only="token", error_as_ok=True), RegistryError, "without a token"),
        (Faults(token=b"<!DOCTYPE html><title>Please log in</title>"), RegistryError, "without a token"),
        (Faults(token=b"\xff\xfe" * 1000), RegistryError, "without a token"),
        (Faults(token=b"[" * 100_000), RegistryError, "without a token"),
        (Faults(token=b'{"token": "' + b"x" * 100 + b'\\r\\nHost: elsewhere"}'), RegistryError, "without a token"),
    ],
)
def test_good_status_and_no_answer(server: FakeRegistry, hpcc_env: Path, faults: Faults, error: Any, says: str) -> None:
    server.faults = faults
    refused(server, hpcc_env, error, says)


def test_digest_that_is_another_manifests(server: FakeRegistry, hpcc_env: Path) -> None:
    data = server.manifests[NAME, "2"][1]
    server.manifests[NAME, str(Digest.of(data))] = server.manifests[NAME, "1"]
    with pytest.raises(IntegrityError, match=f"manifest {Digest.of(data)} of {server.host}/{NAME}: expected digest"):
        pull(server, hpcc_env, "2")


# -- ways that lead nowhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["", "file:///etc", "gopher://127.0.0.1", "http://127.0.0.1:1"])
def test_redirects(server: FakeRegistry, hpcc_env: Path, target: str) -> None:
    """In a circle, to files, to other protocols, and to where nobody listens."""
    server.faults = Faults(redirect=target or server.url)
    refused(server, hpcc_env, RegistryError, "redirects|refuses connections")


# -- documents without an end --------------------------------------------------------------------------------


def _index(server: FakeRegistry, entries: list[dict[str, Any]], tag: str = "") -> dict[str, Any]:
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    digest = server.add_manifest(NAME, tag, data, OCI_INDEX)
    return {"mediaType": OCI_INDEX, "digest": str(digest), "size": len(data)}


def test_indexes_that_branch(server: FakeRegistry, hpcc_env: Path) -> None:
    """A tree of indexes with no image for us in any leaf, which would be a million requests."""
    leaf = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(Digest.of(b"other")),
        "size": 5,
        "platform": {"os": "plan9", "architecture": "mips"},
    }
    level = [_index(server, [{**leaf, "annotations": {"n": str(n)}}]) for n in range(100)]
    level = [_index(server, level[n:] + level[:n]) for n in range(100)]
    _index(server, level, "wide")
    reference = Reference.parse(f"docker://{server.host}/{NAME}:wide")
    settings = settings_of(hpcc_env)
    server.counts.clear()
    with connect(reference, settings) as upstream, pytest.raises((UnsupportedImage, InvalidImage)) as caught:
        find_image(reference, Platform.parse("amd64"), None, upstream, _tiers(settings))
    assert NAME in caught.value.message and server.counts["manifest_get"] <= 1 + 4 + 4 * 4


def _tiers(settings: Any) -> tuple[Any, ...]:
    from hpcc.lookup import tiers

    return tiers(settings)
