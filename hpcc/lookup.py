"""Find a docker:// image in the caches without asking anybody.

    tag  --fresh ref-->  index or manifest  --platform-->  manifest digest  --converter-->  SIF

Everything on this way is small and was verified when it came; a blob is hashed again. What is missing, stale, damaged
or not to be trusted is a miss.
"""

from __future__ import annotations

import os
import time

from hpcc.blocks import converter_id
from hpcc.cache.blobs import read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Ref, read_ref
from hpcc.errors import HpccError, InvalidImage
from hpcc.local import Image, open_local
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import MAX_NESTING, Manifest, parse_manifest
from hpcc.oci.platform import Platform, select
from hpcc.oci.reference import Reference
from hpcc.origin import Origin
from hpcc.records import TYPE_CHECKING
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def tiers(settings: Settings) -> tuple[Cache, ...]:
    """The caches, in the order in which they are looked up: libraries, shared, private."""
    roots = (*settings.library_path, settings.cache_dir, settings.private_dir)
    return tuple(Cache(root, settings.trusted_users, settings.trusted_groups) for root in roots)


def find_cached(uri: str, settings: Settings, *, arch: str | None = None, stale: bool = False) -> Image | None:
    """The image from a cache, or None. With stale, a ref is believed whatever its age.

    Raises InvalidReference for a URI that does not parse; UnsupportedImage where no platform matches.
    """
    reference = Reference.parse(uri)
    platform = Platform.parse(arch) if arch else Platform.host()
    caches = tiers(settings)
    for cache in caches:
        digest = pinned_digest(reference, cache, settings.ttl if not stale else float("inf"))
        if digest is None:
            continue
        chosen = choose_manifest(caches, digest, platform)
        if chosen is None:
            continue
        found = open_cached(caches, origin_of(reference, chosen, platform), uri)
        if found is not None:
            return found
    return None


def origin_of(reference: Reference, manifest_digest: Digest, platform: Platform) -> Origin:
    """What the SIF of this image is made from, by this converter."""
    return Origin(reference.name, str(manifest_digest), str(platform), converter_id())


def pinned_digest(reference: Reference, cache: Cache, ttl: float) -> Digest | None:
    """What the reference names: its own digest, or a ref of its tag that is younger than `ttl` seconds."""
    if reference.digest is not None:
        return reference.digest
    ref = read_ref(cache, reference.name, str(reference.tag))
    return Digest.parse(ref.digest) if ref is not None and is_fresh(ref, ttl) else None


def is_fresh(ref: Ref, ttl: float) -> bool:
    """Younger than `ttl`; a ref from the future, by a clock that runs ahead, is as old as its distance."""
    return abs(time.time() - ref.checked_at) < ttl


def choose_manifest(caches: tuple[Cache, ...], digest: Digest, platform: Platform) -> Digest | None:
    """The digest of the manifest for `platform` that `digest` leads to, as far as the caches know."""
    for _ in range(MAX_NESTING):
        data = read_blob(caches, digest)
        if data is None:
            return None
        document = parse_manifest(data, None)
        if isinstance(document, Manifest):
            return digest
        digest = select(document.manifests, platform).digest
    raise InvalidImage(
        f"{digest}: an index in an index in an index", hint="The image is broken; ask whoever pushed it."
    )


def open_cached(caches: tuple[Cache, ...], origin: Origin, uri: str) -> Image | None:
    """The SIF under the origin's key, if one is there, whole, owned by somebody to trust, and really that key's."""
    for cache in caches:
        for fd, path in _candidates(cache, origin.key):
            try:
                image = open_local(path, name=uri, fd=fd, cache=cache.root)
            except HpccError:
                os.close(fd)
                continue
            if image.key == origin.key:
                return image
            os.close(fd)
    return None


def _candidates(cache: Cache, key: str) -> Iterator[tuple[int, str]]:
    for fd in cache.open_each(cache.sif(key)):
        yield fd, os.readlink(f"/proc/self/fd/{fd}")
