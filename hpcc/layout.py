"""An image as an OCI image layout (image specification, image-layout.md), its bytes as the registry has them.

DIR/
  oci-layout
  index.json                one manifest, under its tag
  blobs/sha256/<hex>        manifest, config, layers
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from hpcc.cache.blobs import read_blob
from hpcc.cache.index import REF_NAME
from hpcc.cache.layout import Cache, sync_directory
from hpcc.errors import CacheError, HpccError, IntegrityError, UsageError, place_hint
from hpcc.layers import Downloads
from hpcc.lookup import Wanted, pin_for_run, tiers
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_INDEX, Descriptor
from hpcc.progress import Part, Progress
from hpcc.pulling import ask, check_policy, open_upstream
from hpcc.registry.upstream import Upstream
from hpcc.runtime._kernel import exchange
from hpcc.settings import Settings
from hpcc.sources.docker import Found, readable_tiers
from hpcc.sources.growing import GrowingFile, cached_chunks


def write_layout(wanted: Wanted, settings: Settings, target: str, progress: Progress, *, replace: bool) -> None:
    """Make the directory `target` a layout of the image. Atomic: it is whole, or as it was; with replace, on a
    filesystem that cannot exchange two names at once, it is missing for a moment.

    Blobs come from the caches or from upstream, each once, and are verified either way. Without replace a target that
    is there stays: UsageError; so does what is no layout. Raises what pulling raises.
    """
    _check_target(target, replace=replace)
    upstream = open_upstream(wanted.reference, settings)
    try:
        found, source = ask(wanted, upstream, settings, progress)
        check_policy(wanted.reference, found, source, settings)
        pin_for_run(wanted.reference, found.top.digest, settings)
        readable = readable_tiers(found.tier, tiers(settings))
        with _directory(target, replace=replace) as path:
            manifest = read_blob(readable, found.digest)
            if manifest is None:
                raise IntegrityError(f"{wanted.uri}: its manifest vanished from the cache", hint="Try again.")
            _write(_place(path, found.digest), (manifest,))
            _fetch_blobs(path, found, source, readable, settings, progress)
            _write_json(os.path.join(path, "oci-layout"), {"imageLayoutVersion": "1.0.0"})
            _write_json(os.path.join(path, "index.json"), _index(wanted, found, len(manifest)))
    finally:
        progress.close()
        upstream.close()


def _check_target(target: str, *, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if not replace:
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.")
    if os.path.islink(target) or not os.path.exists(os.path.join(target, "oci-layout")):
        raise UsageError(f"{target} is no OCI layout, so it is not replaced", hint="Give another name.")


def _index(wanted: Wanted, found: Found, size: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "mediaType": found.manifest.media_type,
        "digest": str(found.digest),
        "size": size,
        "platform": {name: value for name, value in found.config.platform._asdict().items() if value},
    }
    if wanted.reference.tag:
        entry["annotations"] = {REF_NAME: wanted.reference.tag}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}


def _fetch_blobs(
    path: str, found: Found, upstream: Upstream, readable: tuple[Cache, ...], settings: Settings, progress: Progress
) -> None:
    """Each blob into its place: copied from a cache, or downloaded, several at a time."""
    blobs = {blob.digest: blob for blob in (found.manifest.config, *found.manifest.layers)}
    progress.stage("Pulling", sum(blob.size for blob in blobs.values()))
    downloads = Downloads(upstream, settings.downloads)
    with ExitStack() as stack:
        coming: list[tuple[GrowingFile, BinaryIO, Part]] = []
        try:
            for number, blob in enumerate(blobs.values()):
                name = f"layer {number} of {len(blobs) - 1}, {blob.digest.hex[:12]}"
                part = progress.part(name, blob.size) if number else Part()
                if _copy_cached(path, blob, readable, part):
                    continue
                opened = stack.enter_context(open(_place(path, blob.digest), "x+b"))
                coming.append((GrowingFile(opened, part), opened, part))
                downloads.start(blob, coming[-1][0])
            for target, file, part in coming:
                target.wait()
                os.fsync(file.fileno())
                part.finish()
        except BaseException:
            for target, _, _ in coming:
                target.cancel()
            raise
    for directory in {os.path.dirname(_place(path, digest)) for digest in blobs}:
        sync_directory(directory)


def _copy_cached(path: str, blob: Descriptor, readable: tuple[Cache, ...], part: Part) -> bool:
    """Whether a cache had the blob whole; then it is in its place."""
    chunks = cached_chunks(readable, blob)
    if chunks is None:
        return False
    place = _place(path, blob.digest)
    try:
        _write(place, chunks)
    except IntegrityError:  # damaged in the cache
        os.unlink(place)
        return False
    part.advance(blob.size)
    part.finish("in the cache")
    return True


def _place(path: str, digest: Digest) -> str:
    directory = os.path.join(path, "blobs", digest.algorithm)
    os.makedirs(directory, exist_ok=True)
    return os.path.join(directory, digest.hex)


def _write(place: str, chunks: Iterable[bytes]) -> None:
    with open(place, "xb") as file:
        for data in chunks:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: str, document: object) -> None:
    with open(path, "x", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _directory(target: str, *, replace: bool) -> Iterator[str]:
    """A new directory beside `target`, which takes its name at the end; gone where that is not reached."""
    target = os.path.abspath(target)
    parent, name = os.path.split(target)
    temporary = os.path.join(parent, f".{name}.{secrets.token_hex(6)}")
    try:
        os.mkdir(temporary)
        yield temporary
        sync_directory(temporary)
        _check_target(target, replace=replace)
        _take_name(temporary, target)
        sync_directory(parent)
    except OSError as error:
        if isinstance(error, HpccError) or error.errno is None:
            raise
        raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what is left of it, or what stood there before


def _take_name(temporary: str, target: str) -> None:
    if not os.path.lexists(target):
        os.rename(temporary, target)
        return
    try:
        exchange(temporary, target)
    except OSError:  # a filesystem, or a kernel, that cannot
        old = f"{temporary}.old"
        os.rename(target, old)
        try:
            os.rename(temporary, target)
            os.rename(old, temporary)
        except BaseException:
            if not os.path.lexists(target):
                os.rename(old, target)
            raise
