"""oci/ of a cache as an OCI image layout that skopeo and umoci read (image specification, image-layout.md).

index.json is derived: each image that is whole stands in it by its tag or digest. It is replaced whole, and where it is
missing or damaged it begins anew; a writer that loses a race loses a line until the next pull of that image.
"""

import json
import os
from typing import Any

from hpcc.cache.layout import Cache
from hpcc.errors import HpccError
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Manifest, parse_manifest
from hpcc.oci.reference import Reference

REF_NAME = "org.opencontainers.image.ref.name"
MAX_INDEX = 64 << 20


def add_to_index(cache: Cache, reference: Reference, digest: Digest, media_type: str) -> None:
    """Note the image's manifest under the reference, if each blob of it is in the cache. Atomic, idempotent."""
    path = cache.path("oci/index.json")
    data = _manifest_if_whole(cache, digest)
    if data is None:
        return
    entry = {
        "mediaType": media_type,
        "digest": str(digest),
        "size": len(data),
        "annotations": {REF_NAME: reference.canonical},
    }
    entries = [each for each in _entries(cache, path) if _name(each) != reference.canonical]
    if not os.path.exists(cache.path("oci/oci-layout")):
        cache.write(cache.path("oci/oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
    _write(cache, path, [*entries, entry])


def _entries(cache: Cache, path: str) -> list[dict[str, Any]]:
    data = cache.read(path, MAX_INDEX)
    try:
        entries = json.loads(data or b"{}").get("manifests", [])
        return [each for each in entries if isinstance(each, dict)]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(REF_NAME, "")) if isinstance(annotations, dict) else ""


def _manifest_if_whole(cache: Cache, digest: Digest) -> bytes | None:
    data = cache.read(cache.blob(digest.algorithm, digest.hex), 4 << 20)
    if data is None:
        return None
    manifest = parse_manifest(data)
    if not isinstance(manifest, Manifest):
        return None
    for each in (manifest.config, *manifest.layers):
        if not os.path.exists(cache.blob(each.digest.algorithm, each.digest.hex)):
            return None
    return data


def remove_missing(cache: Cache) -> None:
    """Take out of index.json what is not whole any more. Atomic, idempotent."""
    path = cache.path("oci/index.json")
    entries = _entries(cache, path)
    kept = [each for each in entries if _is_whole(cache, str(each.get("digest", "")))]
    if len(kept) < len(entries):
        _write(cache, path, kept)


def _is_whole(cache: Cache, digest: str) -> bool:
    try:
        return _manifest_if_whole(cache, Digest.parse(digest)) is not None
    except HpccError:
        return False


def _write(cache: Cache, path: str, entries: list[dict[str, Any]]) -> None:
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    cache.write(path, json.dumps(index, indent=1).encode())
