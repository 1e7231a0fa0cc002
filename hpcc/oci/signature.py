"""Signatures of images, as cosign attaches them to a digest by a tag of the same repository.

    REPOSITORY:sha256-<hex>.sig      an image manifest with one layer for each signature:
      layers[n]                      the payload, application/vnd.dev.cosign.simplesigning.v1+json
        annotations                  dev.cosignproject.cosign/signature: base64 of the signature of the payload's bytes

    {"critical": {"identity": {"docker-reference": "quay.io/site/tool"},
                  "image": {"docker-manifest-digest": "sha256:…"},
                  "type": "cosign container image signature"},
     "optional": …}

cosign, "Cosign Signature Specifications": "Tag-based Discovery", "OCI Image Manifest V1", "Simple Signing". The payload
is that of containers-signature(5), "JSON data format". Nothing here says whose a signature is, or whether it is good.
Not read: certificates ("keyless" signatures), and the bundles that cosign 3 attaches by the referrers API unless it is
told otherwise.
"""

from __future__ import annotations

from hpcc.errors import InvalidImage, InvalidReference
from hpcc.oci.digest import Digest
from hpcc.oci.document import child, children, load_object, text
from hpcc.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"

MAX_SIGNATURES = 100
"""Of one digest. cosign adds none that is there already, so these are so many keys or annotations."""

MAX_PAYLOAD = 64 << 10
"""Bytes of a payload, of which cosign's own have some 250."""

MAX_SIGNATURE = 4096
"""Characters of a signature in base64; one by RSA of 8192 bits has 1368."""

# cosign writes the first; its specification, and its first versions, the second.
_DIGEST_NAMES = ("docker-manifest-digest", "Docker-manifest-digest")


class Signature(NamedTuple):
    """Where the signed bytes are, and a signature of them."""

    payload: Descriptor
    signature: bytes


class Payload(NamedTuple):
    """What a signature says: this digest, under this name. The name is the signer's; cosign tells to ignore it."""

    digest: Digest
    identity: str


def signature_tag(digest: Digest) -> str:
    """The tag at which signatures of this digest are; "" for a sha512, which is longer than a tag may be."""
    tag = f"{digest.algorithm}-{digest.hex}.sig"
    return tag if len(tag) <= 128 else ""


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """The signatures in a signature manifest, in its order; at least one. Layers of other types are passed over.

    InvalidImage where it is no manifest, has no signature, or is ill-typed or out of bounds in any of them.
    """
    what = "signature manifest"
    document = load_object(data, what)
    if document.get("schemaVersion") != 2:
        raise InvalidImage(f"{what}: its schemaVersion is not 2")
    declared = text(document, "mediaType", what)
    if declared not in (OCI_MANIFEST, DOCKER_MANIFEST, "") or "manifests" in document:
        raise InvalidImage(f"{what}: it is {declared[:100] or 'an index'}, where an image manifest was expected")
    layers = children(document, "layers", what, MAX_SIGNATURES)
    found = tuple(_signature(each, what) for each in layers if each.get("mediaType") == SIMPLE_SIGNING)
    if not found:
        raise InvalidImage(f"{what}: none of its {len(layers)} layers is a signature by cosign")
    return found


def _signature(entry: dict[str, Any], what: str) -> Signature:
    from binascii import a2b_base64

    digest = _digest(text(entry, "digest", what), what)
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_PAYLOAD:
        raise InvalidImage(f"{what}: {digest} has no usable size, which is 1 to {MAX_PAYLOAD} bytes for a payload")
    encoded = text(child(entry, "annotations", what), ANNOTATION, what)
    if not 0 < len(encoded) <= MAX_SIGNATURE:
        raise InvalidImage(f"{what}: {digest} has a signature of {len(encoded)} characters, not 1 to {MAX_SIGNATURE}")
    try:
        signature = a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise InvalidImage(f"{what}: the signature of {digest} is not base64") from None
    # No urls: nothing but the repository itself is asked for a payload.
    return Signature(Descriptor(SIMPLE_SIGNING, digest, size), signature)


def parse_payload(data: bytes) -> Payload:
    """What a payload claims; to be believed only of bytes whose signature is good.

    InvalidImage where it is no claim of cosign's about an image, or has critical members that hpcc does not know:
    containers-signature(5), "critical", wants those refused.
    """
    what = "signature payload"
    if len(data) > MAX_PAYLOAD:
        raise InvalidImage(f"{what}: {len(data)} bytes, more than {MAX_PAYLOAD}")
    critical = _members(load_object(data, what), "critical", ("identity", "image", "type"), what)
    kind = text(critical, "type", what)
    if kind != TYPE:
        raise InvalidImage(f"{what}: its type is {kind[:100]!r}, not {TYPE!r}")
    identity = text(_members(critical, "identity", ("docker-reference",), what), "docker-reference", what)
    image = _members(critical, "image", _DIGEST_NAMES, what)
    if len(image) != 1:
        raise InvalidImage(f"{what}: {len(image)} digests of an image, not one")
    (name,) = image
    return Payload(_digest(text(image, name, what), what), identity)


def _members(obj: dict[str, Any], key: str, known: tuple[str, ...], what: str) -> dict[str, Any]:
    """The object at `key`, which has no members but these."""
    found = child(obj, key, what)
    strange = next((name for name in found if name not in known), None)
    if strange is not None:
        raise InvalidImage(f"{what}: {key} has the member {strange[:100]!r}, which hpcc does not know")
    return found


def _digest(value: str, what: str) -> Digest:
    try:
        return Digest.parse(value)
    except InvalidReference as error:
        raise InvalidImage(f"{what}: {error.message}") from None
