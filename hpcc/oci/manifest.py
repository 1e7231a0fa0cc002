"""Manifests and indexes, OCI's and Docker's alike (image specification: manifest.md, image-index.md).

What a document is, its content tells, not the Content-Type that some server put on it.
"""

from __future__ import annotations

from hpcc.errors import InvalidImage, InvalidReference, UnsupportedImage
from hpcc.oci.digest import Digest
from hpcc.oci.document import child, children, load_object, pairs, text, texts
from hpcc.oci.platform import Platform
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
"""For the header of a request: all that `parse_manifest` reads."""

MAX_ENTRIES = 1000
"""Layers of a manifest, and manifests of an index."""

MAX_NESTING = 3
"""Of indexes in indexes."""

# Old registries say octet-stream of what is an image's config; Docker accepts that too.
_CONFIG_TYPES = frozenset((OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", ""))
# Layers in all their kinds: plain, gzip, zstd, nondistributable, foreign. Which it is, the bytes tell.
_LAYER_TYPES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"


class Descriptor(NamedTuple):
    """A pointer to bytes in a registry or layout: what they are, their digest, and how many.

    size is 0 to 2**63 - 1. annotations are sorted pairs. The platform is in normal form.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


class Manifest(NamedTuple):
    """One image for one platform: its config, and its layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    artifact_type: str = ""
    annotations: tuple[tuple[str, str], ...] = ()


class Index(NamedTuple):
    """Manifests, or further indexes, to choose from by platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    artifact_type: str = ""
    annotations: tuple[tuple[str, str], ...] = ()


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """The image manifest or index in `data`; `media_type` is what somebody said that it is.

    InvalidImage where it is no JSON, ill-typed, ambiguous or out of bounds; UnsupportedImage, which says
    what the thing is, for schema 1 and for artifacts.
    """
    parsed = parse_artifact(data, media_type)
    if isinstance(parsed, Manifest):
        _refuse_artifact(parsed)
    return parsed


def parse_artifact(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """The same of any manifest or index, whatever its layers are. Errors as of parse_manifest, artifacts excepted."""
    document = load_object(data, "manifest")
    declared = text(document, "mediaType", "manifest")
    if document.get("schemaVersion") == 1 or "fsLayers" in document or declared.startswith(_SCHEMA_1):
        raise UnsupportedImage(
            "this is an image of Docker's manifest schema 1, which went out of use in 2017",
            hint="Push it again with a present-day Docker or skopeo, or choose a newer tag.",
        )
    version = document.get("schemaVersion")
    if version is not None and version != 2:
        raise InvalidImage(f"manifest: schemaVersion is {str(version)[:20]!r}, not 2")
    has_index, has_image = "manifests" in document, "layers" in document or "config" in document
    # A document that reads as both would be one thing to us and another to the tool that signed it (CVE-2021-41190).
    if has_index and has_image:
        raise InvalidImage("manifest: has manifests beside config or layers, so it is neither an index nor an image")
    if (declared in (OCI_INDEX, DOCKER_INDEX) and has_image) or (
        declared in (OCI_MANIFEST, DOCKER_MANIFEST) and has_index
    ):
        raise InvalidImage(f"manifest: calls itself {declared}, but holds something else")
    if has_index:
        return _parse_index(document, declared)
    if has_image:
        return _parse_image(document, declared)
    raise UnsupportedImage(
        f"this is {declared or media_type or 'JSON of an unknown type'}, not an image"[:300],
        hint="hpcc takes OCI images and indexes, and Docker's manifest v2 and manifest lists.",
    )


def _parse_index(document: dict[str, Any], declared: str) -> Index:
    what = "index"
    manifests = tuple(_descriptor(entry, what) for entry in children(document, "manifests", what, MAX_ENTRIES))
    return Index(
        manifests, declared or OCI_INDEX, text(document, "artifactType", what), pairs(document, "annotations", what)
    )


def _parse_image(document: dict[str, Any], declared: str) -> Manifest:
    what = "manifest"
    return Manifest(
        _descriptor(child(document, "config", what), f"{what}: config"),
        tuple(_descriptor(entry, f"{what}: layer") for entry in children(document, "layers", what, MAX_ENTRIES)),
        declared or OCI_MANIFEST,
        text(document, "artifactType", what),
        pairs(document, "annotations", what),
    )


def _descriptor(entry: dict[str, Any], what: str) -> Descriptor:
    try:
        digest = Digest.parse(text(entry, "digest", what))
    except InvalidReference as error:
        raise InvalidImage(f"{what}: {error.message}") from None
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise InvalidImage(f"{what}: {digest} has no usable size")
    platform = None
    if entry.get("platform") is not None:
        stated = child(entry, "platform", what)
        platform = Platform.of(*(text(stated, key, f"{what}: platform") for key in ("os", "architecture", "variant")))
    return Descriptor(
        text(entry, "mediaType", what)[:255],
        digest,
        size,
        platform,
        texts(entry, "urls", what) or (),
        pairs(entry, "annotations", what),
    )


def _refuse_artifact(manifest: Manifest) -> None:
    """UnsupportedImage for a manifest of something that is not an image, which tells what it is."""
    for layer in manifest.layers:
        if layer.media_type.endswith("+encrypted"):
            raise UnsupportedImage(
                "the layers of this image are encrypted, which hpcc cannot undo",
                hint="Decrypt it first: skopeo copy --decryption-key.",
            )
    config = manifest.config.media_type
    odd = [layer.media_type for layer in manifest.layers if not layer.media_type.startswith(_LAYER_TYPES)]
    if config in _CONFIG_TYPES and not odd:
        return
    types = (manifest.artifact_type, config, *odd)
    known = (
        ("helm", "a Helm chart", "Use helm."),
        ("sylabs.sif", "a SIF file stored as an artifact", "Pull it as oras://, not docker://."),
        ("docker.plugin", "a Docker plugin", "Only a Docker daemon can use it."),
        ("cosign", "a cosign signature or attestation", "Name the image that it belongs to."),
        ("in-toto", "an attestation, not the image that it is about", "Name the image itself."),
        ("notary", "a Notary signature", "Name the image that it belongs to."),
        ("wasm", "a WebAssembly module", "hpcc runs Linux programs."),
    )
    for word, thing, hint in known:
        if any(word in name for name in types):
            raise UnsupportedImage(f"this is {thing}, not an image", hint=hint)
    telling = (
        manifest.artifact_type or (config if config not in (*_CONFIG_TYPES, OCI_EMPTY) else "") or "".join(odd[:1])
    )
    raise UnsupportedImage(
        f"this is an OCI artifact, not an image: {telling or config}",
        hint="Fetch it with the tool that made it, or with oras.",
    )
