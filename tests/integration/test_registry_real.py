"""The client against Debian's docker-registry: what the embedded one must agree with."""

import gzip
import json
from functools import partial
from pathlib import Path

import pytest

from hpcc.errors import AccessDenied, ImageNotFound
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Index, Manifest, parse_manifest
from hpcc.oci.platform import Platform, select
from hpcc.registry.client import Registry
from hpcc.registry.credentials import Credentials
from hpcc.registry.download import fetch_blob
from hpcc.registry.fake import FakeRegistry
from tests.support.docker_registry import DockerRegistry
from tests.support.real import need

NAME = "group/name"
LAYER = gzip.compress(b"some tar" * 300_000, 1, mtime=0)
CONFIG: dict[str, object] = {"architecture": "arm64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
BCRYPT_OF_SECRET = "$2b$04$mwkJiB9byE0zXlMn.UqDKeN5iuSvqXEXu53.UK8erIPaRPVZrUM3i"

pytestmark = pytest.mark.usefixtures("hpcc_env")


class Sink:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""


def fetch(registry: Registry, manifest: Manifest) -> list[bytes]:
    sinks = []
    for descriptor in (manifest.config, *manifest.layers):
        sinks.append(Sink())
        fetch_blob([partial(registry.blob, NAME, descriptor)], descriptor, sinks[-1])
    return [sink.data for sink in sinks]


def test_index_manifest_config_and_layer(docker_registry: DockerRegistry) -> None:
    pushed = docker_registry.push(NAME, "1", [LAYER], CONFIG)
    docker_registry.push_index(NAME, "all", [(pushed, {"os": "linux", "architecture": "arm64", "variant": "v8"})])
    with Registry(docker_registry.host, scheme="http") as registry:
        resolved = registry.resolve(NAME, "all")
        assert not resolved.private
        index = parse_manifest(registry.manifest(NAME, resolved.descriptor.digest))
        assert isinstance(index, Index)
        chosen = select(index.manifests, Platform.parse("arm64"))
        assert str(chosen.digest) == pushed == str(registry.resolve(NAME, "1").descriptor.digest)
        manifest = parse_manifest(registry.manifest(NAME, chosen.digest))
        assert isinstance(manifest, Manifest)
        config, layer = fetch(registry, manifest)
        assert ImageConfig.parse(config).platform == ("linux", "arm64", "")
        assert layer == LAYER
        with registry.blob(NAME, manifest.layers[0], 1000) as blob:
            assert blob.offset == 1000 and b"".join(blob) == LAYER[1000:]
        with pytest.raises(ImageNotFound, match="there is no image 2"):
            registry.resolve(NAME, "2")
        with pytest.raises(ImageNotFound, match="manifest unknown"):
            registry.manifest(NAME, Digest.of(b"nothing"))
    gets = [path for method, path, _ in docker_registry.requests() if method == "GET" and "/manifests/" in path]
    assert len(gets) == 1 + 3  # the test's own for the index, and ours


def test_docker_media_types(docker_registry: DockerRegistry) -> None:
    config = docker_registry.push_blob(NAME, json.dumps(CONFIG).encode())
    layer = docker_registry.push_blob(NAME, LAYER)
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, **config},
        "layers": [{"mediaType": DOCKER_LAYER_GZIP, **layer}],
    }
    docker_registry.push_manifest(NAME, "1", json.dumps(document).encode(), DOCKER_MANIFEST)
    registry = Registry(docker_registry.host, scheme="http")
    found = registry.resolve(NAME, "1").descriptor
    assert found.media_type == DOCKER_MANIFEST
    manifest = parse_manifest(registry.manifest(NAME, found.digest))
    assert isinstance(manifest, Manifest)
    assert fetch(registry, manifest)[1] == LAYER


def test_basic_login(tmp_path: Path) -> None:
    program = need("docker-registry")
    (tmp_path / "htpasswd").write_text(f"ann:{BCRYPT_OF_SECRET}\n")
    with DockerRegistry(tmp_path, program, htpasswd=tmp_path / "htpasswd") as server:
        for credentials, hint in ((None, "hpcc registry login"), (Credentials("ann", "wrong"), "Asked as 'ann'")):
            with pytest.raises(AccessDenied, match="unauthorized: ") as caught:
                Registry(server.host, scheme="http", credentials=credentials).resolve(NAME, "1")
            assert hint in caught.value.hint
        with pytest.raises(ImageNotFound):
            Registry(server.host, scheme="http", credentials=Credentials("ann", "secret")).resolve(NAME, "1")


def test_embedded_registry_answers_like_the_real_one(docker_registry: DockerRegistry) -> None:
    """Status and headers that a client goes by, of both, to the same questions."""
    import requests

    with FakeRegistry(scheme="none") as fake:
        fake.add_image(NAME, "1", [LAYER], CONFIG)
        data = fake.manifests[NAME, "1"][1]
        for blob in (LAYER, json.dumps(CONFIG).encode()):
            docker_registry.push_blob(NAME, blob)
        digest = docker_registry.push_manifest(NAME, "1", data, fake.manifests[NAME, "1"][0])
        blob = Digest.of(LAYER)
        questions = [
            ("GET", "", {}),
            ("HEAD", f"{NAME}/manifests/1", {}),
            ("GET", f"{NAME}/manifests/1", {}),
            ("GET", f"{NAME}/manifests/{digest}", {}),
            ("GET", f"{NAME}/manifests/missing", {}),
            ("HEAD", f"{NAME}/manifests/missing", {}),
            ("HEAD", f"{NAME}/blobs/{blob}", {}),
            ("GET", f"{NAME}/blobs/{blob}", {}),
            ("GET", f"{NAME}/blobs/{blob}", {"Range": "bytes=1000-"}),
            ("GET", f"{NAME}/blobs/{Digest.of(b'nothing')}", {}),
        ]
        for method, path, headers in questions:
            answers = []
            for host in (docker_registry.host, fake.host):
                accept = {"Accept": "application/vnd.oci.image.manifest.v1+json", "Accept-Encoding": "identity"}
                answer = requests.request(method, f"http://{host}/v2/{path}", headers={**accept, **headers}, timeout=10)
                telling = {name: answer.headers.get(name) for name in ("Docker-Content-Digest", "Content-Range")}
                if "/blobs/" in path:
                    telling.pop("Docker-Content-Digest")
                if answer.ok and path:
                    telling |= {name: answer.headers.get(name) for name in ("Content-Type", "Content-Length")}
                codes = (
                    [error["code"] for error in answer.json()["errors"]] if answer.content[:9] == b'{"errors"' else []
                )
                answers.append((answer.status_code, telling, codes, answer.content if answer.ok and path else b""))
            assert answers[0] == answers[1], (method, path)
