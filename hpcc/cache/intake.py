"""What comes into a cache from elsewhere than a registry: from an archive, or from another program's cache.

Whoever brings it in vouches for what it is called: a blob is what its digest says, but that docker.io/library/debian:12
means this digest only the archive says. So a tag that comes this way counts as looked up one ttl ago. It serves where
no registry is asked or answers, at any age; where one answers, the next run asks it. A later import wins over an
earlier one, and what a registry said within the last ttl over both.
"""

import os
import time
from collections.abc import Iterable
from typing import BinaryIO

from hpcc.cache.blobs import read_blob
from hpcc.cache.index import REF_NAME, add_to_index
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Ref, read_ref, write_ref
from hpcc.errors import IntegrityError, InvalidImage, InvalidReference, UnsupportedImage
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import MAX_NESTING, Descriptor, Index, Manifest, parse_manifest
from hpcc.oci.reference import Reference
from hpcc.records import NamedTuple

CHUNK = 1 << 20
_CONTAINERD_NAME = "io.containerd.image.name"


class Contained(NamedTuple):
    """What a digest leads to in a cache. reached: each blob that is there or should be, it included."""

    images: tuple[tuple[Descriptor, Manifest], ...]  # the whole ones, one for each platform
    missing: tuple[Digest, ...]  # of those that are there in part; indexes name more than an archive need have
    reached: frozenset[Digest]


def put_blob(tier: Cache, digest: Digest, size: int, chunks: Iterable[bytes]) -> bool:
    """Publish a blob, verified while it comes; whether it is new here. Reads `chunks` to their end. IntegrityError."""
    verifier = Verifier(digest, size)
    if is_whole(tier, digest, size):
        for data in chunks:
            verifier.update(data)
        verifier.finish()
        return False
    with tier.temporary() as file:
        for data in chunks:
            verifier.update(data)
            file.write(data)
        verifier.finish()
        publish_blob(tier, file, digest, size)
    return True


def publish_blob(tier: Cache, file: BinaryIO, digest: Digest, size: int) -> None:
    """Give a temporary, whose bytes were verified, its name; beside one of another trusted owner that is damaged."""
    path = tier.publish(file, tier.blob(digest.algorithm, digest.hex))
    if not os.path.samestat(os.lstat(path), os.fstat(file.fileno())) and not is_whole(tier, digest, size):
        tier.publish(file, path, beside=True)


def is_whole(tier: Cache, digest: Digest, size: int) -> bool:
    """Whether the tier has the blob, hashed here and now."""
    for fd in tier.open_each(tier.blob(digest.algorithm, digest.hex)):
        with open(fd, "rb", buffering=0) as file:
            if os.fstat(fd).st_size == size and hashes_to(file, digest):
                return True
    return False


def hashes_to(file: BinaryIO, digest: Digest) -> bool:
    """Whether the bytes from the file's position on are those of the digest."""
    verifier = Verifier(digest)
    while data := file.read(CHUNK):
        verifier.update(data)
    try:
        verifier.finish()
    except IntegrityError:
        return False
    return True


def contained(caches: tuple[Cache, ...], top: Descriptor) -> Contained:
    """What `top`, an index or a manifest, leads to in these caches. Never raises for what it finds."""
    images: list[tuple[Descriptor, Manifest]] = []
    missing: list[Digest] = []
    reached: set[Digest] = set()
    todo = [(top, 1)]
    while todo:
        descriptor, depth = todo.pop()
        if descriptor.digest in reached:
            continue
        reached.add(descriptor.digest)
        data = read_blob(caches, descriptor.digest)
        if data is None:
            if descriptor is top:
                missing.append(top.digest)
            continue
        try:
            document = parse_manifest(data, descriptor.media_type)
        except (InvalidImage, UnsupportedImage):
            continue  # an attestation, a signature: no image
        if isinstance(document, Index):
            if depth < MAX_NESTING:
                todo += [(each, depth + 1) for each in reversed(document.manifests)]
            continue
        blobs = {each.digest: each for each in (document.config, *document.layers)}
        reached.update(blobs)
        lacking = [each.digest for each in blobs.values() if not _has(caches, each)]
        missing += lacking
        if not lacking:
            images.append((descriptor._replace(media_type=document.media_type, size=len(data)), document))
    return Contained(tuple(images), tuple(missing), frozenset(reached))


def _has(caches: tuple[Cache, ...], blob: Descriptor) -> bool:
    for cache in caches:
        for fd in cache.open_each(cache.blob(blob.digest.algorithm, blob.digest.hex)):
            size = os.fstat(fd).st_size
            os.close(fd)
            if size == blob.size:
                return True
    return False


def name_of(entry: Descriptor, base: str = "") -> Reference | None:
    """The reference by which an index.json names an image; None where it has none, or a tag alone and no `base`.

    base: registry/repository for tags that stand alone, as `skopeo copy … oci-archive:FILE:TAG` writes them.
    InvalidImage for a name with a digest that is another's.
    """
    annotations = dict(entry.annotations)
    for text in (annotations.get(_CONTAINERD_NAME, ""), annotations.get(REF_NAME, "")):
        if not text:
            continue
        if "/" not in text and ":" not in text:
            if not base:
                continue
            text = f"{base}:{text}"
        try:
            reference = Reference.parse(text)
        except InvalidReference:
            continue
        if reference.digest not in (None, entry.digest):
            raise InvalidImage(f"{text[:300]} stands there for {entry.digest}", hint="The archive was tampered with.")
        return reference
    return None


def note_image(tier: Cache, reference: Reference, top: Descriptor, found: Contained, ttl: float) -> None:
    """Have the tier know that the reference names `top`, of which it has what was `found`. Idempotent.

    See the module on how long a tag is believed. What index.json says last is the first image, if the tier has it.
    """
    if reference.digest is None:
        checked_at = max(0.0, time.time() - ttl)
        name = f"{reference.name}:{reference.tag}"
        known = read_ref(tier, reference.name, str(reference.tag))
        if known is None or known.checked_at <= checked_at:
            ref = Ref(name, str(top.digest), top.media_type, top.size, checked_at)
            write_ref(tier, reference.name, str(reference.tag), ref)
    for descriptor, _ in found.images[:1]:
        add_to_index(tier, reference, descriptor.digest, descriptor.media_type)
