"""Small blobs of a cache: manifests, indexes and configs."""

from hpcc.cache.layout import Cache
from hpcc.oci.digest import Digest

MAX_SIZE = 4 << 20  # bytes; what the distribution specification asks registries to accept for a manifest


def read_blob(caches: tuple[Cache, ...], digest: Digest) -> bytes | None:
    """A small blob, hashed again; None where no cache has it whole."""
    for cache in caches:
        for fd in cache.open_each(cache.blob(digest.algorithm, digest.hex)):
            with open(fd, "rb") as file:
                data = file.read(MAX_SIZE + 1)
            if len(data) <= MAX_SIZE and Digest.of(data, digest.algorithm) == digest:
                return data
    return None


def write_blob(cache: Cache, digest: Digest, data: bytes) -> None:
    """Publish a small blob; beside one of another trusted owner that is damaged, which cannot be replaced."""
    path = cache.blob(digest.algorithm, digest.hex)
    cache.write(path, data)
    if read_blob((cache,), digest) is None:
        cache.write(path, data, beside=True)
