"""Signature manifests and payloads as cosign writes them, and all that strangers may write instead."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.errors import InvalidImage
from hpcc.oci import signature as s
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor

IMAGE = Digest.of(b"image")
PAYLOAD = Digest.of(b"payload")
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=20,
)


def layer(**changes: Any) -> dict[str, Any]:
    base = {
        "mediaType": s.SIMPLE_SIGNING,
        "digest": str(PAYLOAD),
        "size": 250,
        "annotations": {s.ANNOTATION: base64.b64encode(b"signature").decode(), "other": "x"},
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def manifest(*layers: Any, **changes: Any) -> bytes:
    base = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": list(layers)}
    return json.dumps({key: value for key, value in {**base, **changes}.items() if value is not ...}).encode()


def critical(**changes: Any) -> dict[str, Any]:
    base = {
        "identity": {"docker-reference": "quay.io/site/tool"},
        "image": {"docker-manifest-digest": str(IMAGE)},
        "type": s.TYPE,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def payload(critical: Any, **more: Any) -> bytes:
    return json.dumps({"critical": critical, "optional": None, **more}).encode()


def test_tag() -> None:
    assert s.signature_tag(IMAGE) == f"sha256-{IMAGE.hex}.sig"
    assert s.signature_tag(Digest.of(b"", "sha512")) == ""  # 139 characters, of 128 that a tag may have


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, ...])
def test_signatures(media_type: Any) -> None:
    second = layer(digest=str(IMAGE), annotations={s.ANNOTATION: "AAAA"}, urls=["https://elsewhere.example/"])
    found = s.parse_signatures(manifest(layer(), layer(mediaType="other"), second, mediaType=media_type))
    assert found == (
        s.Signature(Descriptor(s.SIMPLE_SIGNING, PAYLOAD, 250), b"signature"),
        s.Signature(Descriptor(s.SIMPLE_SIGNING, IMAGE, 250), b"\0\0\0"),
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "object"),
        (manifest(), "none of its 0 layers"),
        (manifest(layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")), "none of its 1 layers"),
        (manifest(layer(mediaType="application/vnd.dev.sigstore.bundle.v0.3+json")), "none of its 1 layers"),
        (manifest(layer(), schemaVersion=1), "schemaVersion"),
        (manifest(layer(), schemaVersion=...), "schemaVersion"),
        (manifest(layer(), mediaType=OCI_INDEX), "image manifest was expected"),
        (manifest(layer(), manifests=[]), "image manifest was expected"),
        (manifest(layers={}), "a list"),
        (manifest(layers=["x"]), "objects"),
        (manifest(*[layer()] * (s.MAX_SIGNATURES + 1)), "more than 100"),
        (manifest(*[layer(mediaType="other")] * 5000), "more than 100"),
        (manifest(layer(digest="md5:1")), "md5"),
        (manifest(layer(digest=f"sha256:../../{'a' * 58}")), "digest"),
        (manifest(layer(digest=...)), "digest"),
        (manifest(layer(size=0)), "size"),
        (manifest(layer(size=-1)), "size"),
        (manifest(layer(size=True)), "size"),
        (manifest(layer(size="250")), "size"),
        (manifest(layer(size=s.MAX_PAYLOAD + 1)), "size"),
        (manifest(layer(annotations=...)), "0 characters"),
        (manifest(layer(annotations={s.ANNOTATION: ""})), "0 characters"),
        (manifest(layer(annotations={s.ANNOTATION: 7})), "a string"),
        (manifest(layer(annotations={s.ANNOTATION: "AAA"})), "base64"),
        (manifest(layer(annotations={s.ANNOTATION: "AA==AA=="})), "base64"),
        (manifest(layer(annotations={s.ANNOTATION: "AAA\u00e4"})), "base64"),
        (manifest(layer(annotations={s.ANNOTATION: "A" * 5000})), "5000 characters"),
    ],
)
def test_no_signatures(data: bytes, says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        s.parse_signatures(data)


def test_payload() -> None:
    assert s.parse_payload(payload(critical())) == s.Payload(IMAGE, "quay.io/site/tool")
    # As its specification writes it; and what the signer adds is his.
    older = critical(image={"Docker-manifest-digest": str(IMAGE)}, identity=...)
    assert s.parse_payload(payload(older, optional={"creator": "Bob", "any": [1]})) == s.Payload(IMAGE, "")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"{}", "type"),
        (payload([]), "an object"),
        (payload(critical(type=...)), "type"),
        (payload(critical(type="atomic container signature")), "atomic"),
        (payload(critical(image=...)), "0 digests"),
        (payload(critical(image={"docker-manifest-digest": None})), "digest"),
        (payload(critical(image={"docker-manifest-digest": "sha256:1"})), "digits"),
        (payload(critical(image={"docker-manifest-digest": str(IMAGE), "Docker-manifest-digest": "x"})), "2 digests"),
        (payload(critical(image={"docker-manifest-digest": str(IMAGE), "not-after": 7})), "'not-after'"),
        (payload(critical(until="yesterday")), "'until'"),
        (payload(critical(identity={"docker-reference": 7})), "a string"),
        (payload(critical(), optional="x" * s.MAX_PAYLOAD), "more than"),
    ],
)
def test_no_payload(data: bytes, says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        s.parse_payload(data)


@pytest.mark.parametrize("parse", [s.parse_signatures, s.parse_payload])
@given(data=st.binary(max_size=200) | NESTED.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(parse: Any, data: bytes) -> None:
    with pytest.raises(InvalidImage):
        parse(data)


@given(key=st.sampled_from(["mediaType", "digest", "size", "annotations"]), value=NESTED)
def test_any_layer(key: str, value: Any) -> None:
    try:
        found = s.parse_signatures(manifest(layer(**{key: value})))
    except InvalidImage:
        return
    (only,) = found
    assert 0 < only.payload.size <= s.MAX_PAYLOAD and only.signature and not only.payload.urls


@given(key=st.sampled_from(["identity", "image", "type"]), value=NESTED)
def test_any_claim(key: str, value: Any) -> None:
    try:
        found = s.parse_payload(payload(critical(**{key: value})))
    except InvalidImage:
        return
    assert found.digest == IMAGE


@given(depth=st.integers(1, 100_000))
def test_deeply_nested(depth: int) -> None:
    for parse in (s.parse_signatures, s.parse_payload):
        with pytest.raises(InvalidImage):
            parse(b'{"critical":' * depth + b"1" + b"}" * depth)
