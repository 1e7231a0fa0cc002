"""Manifests, indexes and configs: what they say, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import HpccError, InvalidImage, UnsupportedImage
from hpcc.oci import manifest as m
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Index, Manifest, parse_manifest
from hpcc.oci.platform import Platform

D = [str(Digest.of(bytes([n]))) for n in range(4)]


def descriptor(n: int, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": D[n], "size": n, **more}


def image(**changes: Any) -> dict[str, Any]:
    layers = [descriptor(1, m.OCI_LAYER_GZIP), descriptor(2, m.OCI_LAYER_ZSTD)]
    base = {"schemaVersion": 2, "mediaType": m.OCI_MANIFEST, "config": descriptor(0, m.OCI_CONFIG), "layers": layers}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def parse(document: Any) -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode())


def test_image() -> None:
    found = parse(image(annotations={"b": "2", "a": "1"}))
    assert isinstance(found, Manifest)
    assert found.config == m.Descriptor(m.OCI_CONFIG, Digest.parse(D[0]), 0)
    assert [(layer.media_type, str(layer.digest), layer.size) for layer in found.layers] == [
        (m.OCI_LAYER_GZIP, D[1], 1),
        (m.OCI_LAYER_ZSTD, D[2], 2),
    ]
    assert found.annotations == (("a", "1"), ("b", "2"))


def test_index() -> None:
    found = parse(
        {
            "schemaVersion": 2,
            "mediaType": m.DOCKER_INDEX,
            "manifests": [
                descriptor(1, m.DOCKER_MANIFEST, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
                descriptor(2, m.DOCKER_MANIFEST, platform={"os": "linux", "architecture": "arm", "os.version": "x"}),
                descriptor(3, m.OCI_INDEX, annotations={"k": "v"}, urls=["https://a.example/"]),
            ],
        }
    )
    assert isinstance(found, Index)
    assert [entry.platform for entry in found.manifests] == [
        Platform("linux", "arm64"),
        Platform("linux", "arm", "v7"),
        None,
    ]
    assert found.manifests[2].annotations == (("k", "v"),)
    assert found.manifests[2].urls == ("https://a.example/",)


@pytest.mark.parametrize(
    "layer",
    [
        m.OCI_LAYER,
        m.DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_kinds_of_layers(layer: str) -> None:
    for config in (m.OCI_CONFIG, m.DOCKER_CONFIG, "application/octet-stream"):
        for declared in (m.OCI_MANIFEST, m.DOCKER_MANIFEST, ...):
            found = parse(image(mediaType=declared, config=descriptor(0, config), layers=[descriptor(1, layer)]))
            assert isinstance(found, Manifest) and found.layers[0].media_type == layer


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"schemaVersion": 1, "name": "a", "fsLayers": []}, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "schema 1"),
        (
            image(config=descriptor(0, m.OCI_EMPTY), artifactType="application/x"),
            "artifact, not an image: application/x",
        ),
        (image(config=descriptor(0, m.OCI_EMPTY), layers=[]), "artifact"),
        (image(config=descriptor(0, "application/vnd.cncf.helm.config.v1+json")), "a Helm chart"),
        (image(config=descriptor(0, "application/vnd.sylabs.sif.config.v1+json")), "a SIF file"),
        (image(config=descriptor(0, "application/x-mine")), "artifact, not an image: application/x-mine"),
        (image(layers=[descriptor(1, "application/vnd.in-toto+json")]), "an attestation"),
        (image(layers=[descriptor(1, "application/vnd.dev.cosign.simplesigning.v1+json")]), "a cosign signature"),
        (image(layers=[descriptor(1, m.OCI_LAYER_GZIP + "+encrypted")]), "encrypted"),
        (image(layers=[descriptor(1, "text/plain")]), "artifact, not an image: text/plain"),
        ({"schemaVersion": 2, "mediaType": "application/vnd.oci.artifact.manifest.v1+json"}, "artifact.manifest"),
        ({}, "unknown type"),
    ],
)
def test_says_what_it_is(document: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        parse(document)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "JSON list"),
        (None, "JSON NoneType"),
        (image(schemaVersion=3), "schemaVersion"),
        (image(manifests=[]), "neither"),
        (image(mediaType=m.OCI_INDEX), "calls itself"),
        ({"mediaType": m.OCI_MANIFEST, "manifests": []}, "calls itself"),
        (image(layers={}), "layers: expected a list"),
        (image(layers=["x"]), "expected objects, found a string"),
        (image(layers=[descriptor(1, m.OCI_LAYER)] * 1001), "1001 entries"),
        (image(config=[]), "config: expected an object"),
        (image(config=...), "is no digest"),
        (image(config={"digest": "sha256:zz", "size": 1}), "64 digits"),
        (image(config={"digest": D[0]}), "no usable size"),
        (image(config={"digest": D[0], "size": True}), "no usable size"),
        (image(config={"digest": D[0], "size": -1}), "no usable size"),
        (image(config={"digest": D[0], "size": 1 << 63}), "no usable size"),
        (image(config={"digest": D[0], "size": 1.5}), "no usable size"),
        (image(config={"digest": D[0], "size": 1, "urls": [1]}), "urls: expected a string"),
        (image(annotations={"a": 1}), "annotations"),
        (image(mediaType=7), "mediaType"),
        ({"manifests": [{"digest": D[0], "size": 1, "platform": "linux"}]}, "platform"),
        ({"manifests": [{"digest": D[0], "size": 1, "platform": {"os": 1}}]}, "platform"),
    ],
)
def test_refuses(document: Any, says: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        parse(document)
    assert says in caught.value.message


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>login</html>", b"\xff\xfe", b"[" * 100_000, b'{"a":' + b"9" * 10_000 + b"}", b"{" + b" " * (5 << 20)],
)
def test_no_json(data: bytes) -> None:
    for parser in (parse_manifest, ImageConfig.parse):
        with pytest.raises(InvalidImage):
            parser(data)


def test_config() -> None:
    data = json.dumps(
        {
            "architecture": "arm",
            "os": "linux",
            "variant": "v6",
            "created": "2024-01-02T03:04:05Z",
            "config": {
                "Env": ["PATH=/bin", "A=b=c"],
                "Entrypoint": ["/init", "--"],
                "Cmd": "one",
                "WorkingDir": "/work",
                "User": "1000:8",
                "Labels": {"z": "1", "a": None},
            },
            "rootfs": {"type": "layers", "diff_ids": D[:2]},
        }
    ).encode()
    config = ImageConfig.parse(data)
    assert config.platform == ("linux", "arm", "v6")
    assert config.env == ("PATH=/bin", "A=b=c")
    assert (config.entrypoint, config.cmd) == (("/init", "--"), ("one",))
    assert (config.working_dir, config.user, config.created) == ("/work", "1000:8", "2024-01-02T03:04:05Z")
    assert config.labels == (("a", ""), ("z", "1"))
    assert [str(digest) for digest in config.diff_ids] == D[:2]
    assert config.raw == data


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"config": None, "rootfs": None, "architecture": None},
        {"config": {"Env": None, "Entrypoint": None, "Cmd": None, "Labels": None}, "rootfs": {"diff_ids": None}},
    ],
)
def test_config_takes_null(document: dict[str, Any]) -> None:
    config = ImageConfig.parse(json.dumps(document).encode())
    assert (config.env, config.entrypoint, config.cmd, config.labels, config.diff_ids) == ((), (), (), (), ())
    assert config.platform == ("linux", "", "")


@pytest.mark.parametrize(
    "settings",
    [
        {"Env": "A=b"},
        {"Env": [1]},
        {"Env": ["A=\0"]},
        {"Env": ["A=\ud800"]},
        {"Cmd": {}},
        {"Cmd": "a\0"},
        {"WorkingDir": []},
        {"User": 1000},
        {"Labels": ["a"]},
        {"Labels": {"a": []}},
    ],
)
def test_config_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidImage, match="image config"):
        ImageConfig.parse(json.dumps({"config": settings}).encode())


def test_config_refuses_diff_ids() -> None:
    for diff_ids in (["sha256:1"], "x", [None], [D[0]] * 1001):
        with pytest.raises(InvalidImage):
            ImageConfig.parse(json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode())


_KEYS = st.one_of(
    st.sampled_from(
        ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform", "os"]
    ),
    st.sampled_from(["architecture", "variant", "urls", "annotations", "artifactType", "fsLayers", "Env", "Cmd"]),
    st.sampled_from(["Entrypoint", "Labels", "rootfs", "diff_ids", "WorkingDir", "User", "created", "x"]),
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([*D, m.OCI_MANIFEST, 2])
)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=6), max_leaves=25
)


@settings(deadline=None)  # other work on the machine must not count
@given(st.dictionaries(_KEYS, _JSON, max_size=8))
def test_any_json_parses_or_is_refused(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    for parser in (parse_manifest, ImageConfig.parse):
        try:
            found = parser(data)
        except HpccError as error:
            assert isinstance(error, InvalidImage | UnsupportedImage)
        else:
            assert isinstance(found, Manifest | Index | ImageConfig)


@settings(deadline=None)  # other work on the machine must not count
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for parser in (parse_manifest, ImageConfig.parse):
        try:
            parser(data)
        except (InvalidImage, UnsupportedImage) as error:
            assert error.message
