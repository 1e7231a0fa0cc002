"""SIFs that others made, in the cache: each a blob, under a manifest of an artifact as oras writes it.

    manifest {config: {}, layers: [application/vnd.sylabs.sif.layer.v1.sif], annotations} --> blob, the SIF

Where a registry has no part in it (http, library) the manifest is written here; its annotations keep what the server
said of the file. It goes by digest, as all blobs do; the owner of the blob answers for its bytes.
"""

from __future__ import annotations

import os

from hpcc.cache.blobs import read_blob, write_blob
from hpcc.errors import UnsupportedImage
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_MANIFEST, Descriptor, Index, parse_artifact
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hpcc.cache.layout import Cache

SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_ETAG, _MODIFIED = "org.hpcc.http.etag", "org.hpcc.http.last-modified"
_IMAGE = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


class Kept(NamedTuple):
    """A file that a manifest names: what it is, and what its server said of it."""

    manifest: Digest
    file: Descriptor
    etag: str = ""
    modified: str = ""


def read_kept(caches: tuple[Cache, ...], digest: Digest) -> Kept | None:
    """What the manifest names, as far as the caches know it. UnsupportedImage for one of something else."""
    data = read_blob(caches, digest)
    return None if data is None else parse_kept(data, digest)


def parse_kept(data: bytes, digest: Digest) -> Kept:
    """What a manifest names: its SIF, or its only layer. InvalidImage, UnsupportedImage."""
    document = parse_artifact(data)
    if isinstance(document, Index):
        raise UnsupportedImage("this is an index of several things, no SIF", hint="Name one by its tag or digest.")
    sifs = [layer for layer in document.layers if layer.media_type == SIF_LAYER] or list(document.layers)
    if len(sifs) != 1 or sifs[0].media_type.startswith(_IMAGE):
        if any(layer.media_type.startswith(_IMAGE) for layer in sifs):
            raise UnsupportedImage("this is an image of layers, no SIF", hint="Name it docker://, not oras://.")
        raise UnsupportedImage(f"this artifact has {len(sifs)} files, where one SIF was expected")
    notes = dict(document.annotations)
    return Kept(digest, sifs[0], notes.get(_ETAG, ""), notes.get(_MODIFIED, ""))


def write_kept(tier: Cache, file: Descriptor, etag: str = "", modified: str = "") -> Kept:
    """Have the tier know a file that it has as a blob; its manifest is the same for the same file and words."""
    import json

    config = b"{}"
    write_blob(tier, Digest.of(config), config)
    notes = {key: value for key, value in ((_ETAG, etag), (_MODIFIED, modified)) if value}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": SIF_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": SIF_LAYER, "digest": str(file.digest), "size": file.size}],
        **({"annotations": notes} if notes else {}),
    }
    data = json.dumps(manifest, sort_keys=True).encode()
    write_blob(tier, Digest.of(data), data)
    return Kept(Digest.of(data), file, etag, modified)


def open_file(caches: tuple[Cache, ...], file: Descriptor) -> tuple[int, str] | None:
    """A descriptor of the blob, and its path; None where no cache has it, of this size and by somebody to trust.

    Not hashed again, since a run must not read gigabytes: so none that has a second name, by which a member of the
    group could have put another trusted blob there.
    """
    for cache in caches:
        path = cache.blob(file.digest.algorithm, file.digest.hex)
        for fd in cache.open_each(path):
            status = os.fstat(fd)
            if status.st_size == file.size and status.st_nlink == 1:
                return fd, os.readlink(f"/proc/self/fd/{fd}")
            os.close(fd)
    return None
