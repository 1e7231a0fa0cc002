"""Images of a cache as one OCI archive, for a cluster without a network.

FILE, a tar (image specification, image-layout.md)
  oci-layout
  index.json                each image by its name and tag, or its name and digest
  blobs/sha256/<hex>        indexes, manifests, configs, layers; each once, in the order of their names

The same images give the same bytes: no clock, owner or order of asking goes in. A tag keeps the digest that it has in
the registry, so an index comes along whole; of the images that it lists only the platform's that was asked for.
"""

import json
import os
import secrets
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

from hpcc.cache.index import REF_NAME
from hpcc.cache.layout import Cache
from hpcc.errors import CacheError, HpccError, ImageNotFound, IntegrityError, UsageError, place_hint
from hpcc.layout import write_layout
from hpcc.lookup import Miss, Wanted, choose_within, known_digests, tiers
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import OCI_INDEX, Descriptor, Index, Manifest
from hpcc.oci.platform import Platform
from hpcc.progress import SILENT, Part, Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc.sources.docker import readable_tiers
from hpcc.sources.growing import CHUNK, cached_chunks

RECORD = 10240  # bytes; tar pads to a multiple


class Export(NamedTuple):
    """What went into an archive: (name, digest of the index or manifest) of each image, and how much that is."""

    images: tuple[tuple[str, str], ...]
    blobs: int
    size: int


class _Source(NamedTuple):
    """Where blobs of an image may be read: from caches, and from a layout that was just written."""

    caches: tuple[Cache, ...]
    directory: str = ""


class _Found(NamedTuple):
    """An image in the caches: what its name means, all its blobs, and those that no cache has."""

    names: tuple[str, ...]
    top: Descriptor
    blobs: tuple[Descriptor, ...]
    missing: tuple[Descriptor, ...]
    source: _Source


def export_images(
    images: Sequence[Wanted],
    settings: Settings,
    target: str,
    progress: Progress = SILENT,
    *,
    fetch: bool = False,
    replace: bool = False,
) -> Export:
    """Write an archive of the images to `target`. Atomic: it is whole, or as it was.

    They are what the caches have, however old; with fetch, what they do not have is pulled. Raises ImageNotFound;
    CacheError for an image that is there in part; IntegrityError for a damaged one; UsageError for a target that is
    there, unless replace; what pulling raises.
    """
    target = os.path.abspath(target)
    if not replace and os.path.lexists(target):
        raise _is_there(target)
    directory, name = os.path.split(target)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}")
    with ExitStack() as stack:
        stack.callback(progress.close)
        try:
            file = stack.enter_context(open(temporary, "x+b"))
            stack.callback(_unlink, temporary)
            found = _find_all(images, settings, directory, stack, progress, fetch=fetch)
            done = _write(file, found, progress)
            file.flush()
            os.fsync(file.fileno())
            if replace:
                os.rename(temporary, target)
            else:
                os.link(temporary, target)  # unlike rename, it does not replace what somebody put there meanwhile
        except FileExistsError:
            raise _is_there(target) from None
        except OSError as error:
            if isinstance(error, HpccError) or error.errno is None:
                raise
            raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None
    return done


def _is_there(target: str) -> UsageError:
    return UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _find_all(
    images: Sequence[Wanted], settings: Settings, directory: str, stack: ExitStack, progress: Progress, *, fetch: bool
) -> list[_Found]:
    all_found = []
    for wanted in images:
        found = _find(wanted, settings)
        if fetch and (found is None or found.missing):
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix=".hpcc-export-", dir=directory))
            layout = os.path.join(place, "layout")
            write_layout(wanted, settings, layout, progress, replace=False)
            found = _find(wanted, settings, layout)
        if found is None:
            raise ImageNotFound(f"{wanted.uri}: no cache has it", hint="Add --pull, and it is fetched.")
        if found.missing:
            size = sum(blob.size for blob in found.missing) / 1e6
            raise CacheError(
                f"{wanted.uri}: the caches do not have {len(found.missing)} of its blobs, {size:.1f} MB",
                hint="Add --pull, and they are fetched. Caches keep layers where the setting keep_blobs is true.",
            )
        all_found.append(found)
    return all_found


def _find(wanted: Wanted, settings: Settings, directory: str = "") -> _Found | None:
    """The image as the caches have it, the newest that is whole, else the newest; None where no cache knows it."""
    caches = tiers(settings)
    partly = None
    for known in known_digests(wanted.reference, caches, settings, stale=True):
        source = _Source(readable_tiers(known.cache, caches), directory)
        try:
            top, documents, manifest = _choose(source.caches, known.digest, wanted.platform)
        except Miss:
            continue
        blobs = {each.digest: each for each in (*documents, manifest.config, *manifest.layers)}
        missing = tuple(each for each in blobs.values() if not _has(source, each))
        found = _Found(_names(wanted), top, tuple(blobs.values()), missing, source)
        if not missing:
            return found
        partly = partly or found
    return partly


def _names(wanted: Wanted) -> tuple[str, ...]:
    """Under which it stands in index.json: its tag and its digest, where hpcc.lock gives both."""
    reference = wanted.reference
    if reference.digest and reference.tag:
        return reference.canonical, reference._replace(digest=None).canonical
    return (reference.canonical,)


def _choose(
    caches: tuple[Cache, ...], digest: Digest, platform: Platform
) -> tuple[Descriptor, list[Descriptor], Manifest]:
    """What the digest is, the documents from there to the platform's manifest, and that. Raises Miss."""
    chosen, manifest, read = choose_within(caches, digest, platform)

    def way(at: Digest) -> list[Descriptor]:
        """Of what was read, only what lies between: others were looked at for their platform."""
        here, parsed = read[at]
        if at == chosen.digest:
            return [here]
        below = [each.digest for each in parsed.manifests if each.digest in read] if isinstance(parsed, Index) else []
        return next(([here, *rest] for each in below if (rest := way(each))), [])

    return read[digest][0], way(digest), manifest


def _has(source: _Source, blob: Descriptor) -> bool:
    return next(_chunks(source, blob), None) is not None


def _chunks(source: _Source, blob: Descriptor) -> Iterator[Iterator[bytes]]:
    """The blob's bytes from each place that seems to have it; IntegrityError at the end of damaged ones."""
    for cache in source.caches:
        chunks = cached_chunks((cache,), blob)
        if chunks is not None:
            yield chunks
    if source.directory:
        path = os.path.join(source.directory, "blobs", blob.digest.algorithm, blob.digest.hex)
        if os.path.exists(path):
            yield _file_chunks(path, blob)


def _file_chunks(path: str, blob: Descriptor) -> Iterator[bytes]:
    verifier = Verifier(blob.digest, blob.size)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(CHUNK):
            verifier.update(data)
            yield data
    verifier.finish()


def _write(file: BinaryIO, found: Sequence[_Found], progress: Progress) -> Export:
    blobs = {blob.digest: (blob, each.source) for each in reversed(found) for blob in each.blobs}
    total = sum(blob.size for blob, _ in blobs.values())
    progress.stage("Exporting", total)
    part = progress.part("blobs", total)
    images = {name: each.top for each in found for name in each.names}
    _put(file, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _put(file, "index.json", _index(images))
    for directory in ("blobs", *sorted({f"blobs/{digest.algorithm}" for digest in blobs})):
        file.write(_header(directory, 0, tarfile.DIRTYPE))
    for digest, (blob, source) in sorted(blobs.items()):
        file.write(_header(f"blobs/{digest.algorithm}/{digest.hex}", blob.size))
        _write_blob(file, blob, source, part)
        file.write(bytes(-blob.size % tarfile.BLOCKSIZE))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % RECORD))
    part.finish()
    return Export(tuple((name, str(top.digest)) for name, top in sorted(images.items())), len(blobs), file.tell())


def _write_blob(file: BinaryIO, blob: Descriptor, source: _Source, part: Part) -> None:
    """From the first place where it is not damaged."""
    start = file.tell()
    for chunks in _chunks(source, blob):
        try:
            for data in chunks:
                file.write(data)
            part.advance(blob.size)
            return
        except IntegrityError:
            file.seek(start)
            file.truncate()
    raise IntegrityError(
        f"{blob.digest} is damaged in the cache, or vanished from it",
        hint="`hpcc cache verify --repair` takes it out; then add --pull.",
    )


def _index(images: dict[str, Descriptor]) -> bytes:
    entries: list[dict[str, Any]] = [
        {
            "mediaType": top.media_type,
            "digest": str(top.digest),
            "size": top.size,
            "annotations": {REF_NAME: name},
        }
        for name, top in sorted(images.items())
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=1).encode()


def _put(file: BinaryIO, name: str, data: bytes) -> None:
    file.write(_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE))


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)
