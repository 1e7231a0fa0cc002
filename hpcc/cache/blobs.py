"""Small blobs of a cache: manifests, indexes and configs."""

from hpcc.cache.layout import Cache
from hpcc.oci.digest import Digest

MAX_SIZE = 4 << 20  # bytes; what the distribution specification asks registries to accept for a manifest


def read_blob(caches: tuple[Cache, ...], digest: Digest) -> bytes | None:
    """A small blob, hashed again; None where no cache has it whole."""
    for cache in caches:
        data = cache.read(cache.blob(digest.algorithm, digest.hex), MAX_SIZE)
        if data is not None and Digest.of(data, digest.algorithm) == digest:
            return data
    return None
