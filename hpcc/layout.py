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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import BinaryIO

from hpcc.cache.blobs import read_blob
from hpcc.cache.index import REF_NAME
from hpcc.cache.layout import Cache, sync_directory
from hpcc.errors import CacheError, IntegrityError, UsageError
from hpcc.lookup import Wanted, tiers
from hpcc.oci.manifest import OCI_INDEX, Descriptor
from hpcc.progress import Part, Progress
from hpcc.pulling import ask, check_policy, open_upstream
from hpcc.registry.upstream import Upstream
from hpcc.settings import Settings
from hpcc.sources.docker import Found, readable_tiers
from hpcc.sources.growing import cached_chunks


def write_layout(wanted: Wanted, settings: Settings, target: str, progress: Progress, *, replace: bool) -> None:
    """Make the directory `target` a layout of the image. Atomic: it is whole, or as it was.

    Blobs come from the caches or from upstream, each once, and are verified either way. Without replace a target that
    is there stays: UsageError. Raises what pulling raises.
    """
    upstream = open_upstream(wanted.reference, settings)
    try:
        found, source = ask(wanted.reference, wanted.platform, upstream, settings, progress)
        check_policy(wanted.reference, found, source, settings)
        readable = readable_tiers(found.tier, tiers(settings))
        with _directory(target, replace=replace) as path:
            manifest = read_blob(readable, found.digest)
            if manifest is None:
                raise IntegrityError(f"{wanted.uri}: its manifest vanished from the cache", hint="Try again.")
            _write(path, Descriptor("", found.digest, len(manifest)), iter((manifest,)))
            _fetch_blobs(path, found, source, readable, settings, progress)
            _write_json(os.path.join(path, "oci-layout"), {"imageLayoutVersion": "1.0.0"})
            _write_json(os.path.join(path, "index.json"), _index(wanted, found, len(manifest)))
    finally:
        progress.close()
        upstream.close()


def _index(wanted: Wanted, found: Found, size: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "mediaType": found.manifest.media_type,
        "digest": str(found.digest),
        "size": size,
        "platform": {"architecture": found.config.platform.architecture, "os": found.config.platform.os},
    }
    if wanted.reference.tag:
        entry["annotations"] = {REF_NAME: wanted.reference.tag}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}


def _fetch_blobs(
    path: str, found: Found, upstream: Upstream, readable: tuple[Cache, ...], settings: Settings, progress: Progress
) -> None:
    blobs = {blob.digest: blob for blob in (found.manifest.config, *found.manifest.layers)}
    progress.stage("Pulling", sum(blob.size for blob in blobs.values()))
    pool = ThreadPoolExecutor(settings.downloads)
    files: list[_File] = []
    try:
        waiting = []
        for number, blob in enumerate(blobs.values()):
            part = (
                progress.part(f"layer {number} of {len(blobs) - 1}, {blob.digest.hex[:12]}", blob.size)
                if number
                else Part()
            )
            files.append(_File(_place(path, blob), part))
            waiting.append(pool.submit(files[-1].fill, blob, upstream, readable))
        for each in as_completed(waiting):
            each.result()
    except BaseException:
        for file in files:
            file.cancel()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for directory in {os.path.dirname(_place(path, blob)) for blob in blobs.values()}:
        sync_directory(directory)


class _File:
    """A blob on its way into the layout: a sink of fetch_blob."""

    def __init__(self, path: str, part: Part) -> None:
        self._path, self._part, self._size = path, part, 0
        self._cancelled = False
        self._file: BinaryIO | None = None

    def fill(self, blob: Descriptor, upstream: Upstream, readable: tuple[Cache, ...]) -> None:
        """Write the blob, verified."""
        with open(self._path, "xb", buffering=0) as self._file:
            cached = cached_chunks(readable, blob)
            try:
                for data in cached or ():
                    self.write(data)
            except IntegrityError:  # damaged in the cache
                self.restart()
                cached = None
            if cached is None:
                upstream.fetch(blob, self)
            os.fsync(self._file.fileno())
        self._part.finish("in the cache" if cached is not None else "")

    def write(self, data: bytes) -> None:
        if self._cancelled:
            raise InterruptedError("the pull was given up")
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)
        self._part.advance(len(data))

    def restart(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._part.advance(-self._size)
        self._size = 0

    def cancel(self) -> None:
        self._cancelled = True


def _place(path: str, blob: Descriptor) -> str:
    directory = os.path.join(path, "blobs", blob.digest.algorithm)
    os.makedirs(directory, exist_ok=True)
    return os.path.join(directory, blob.digest.hex)


def _write(path: str, blob: Descriptor, chunks: Iterator[bytes]) -> None:
    with open(_place(path, blob), "xb") as file:
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
    if os.path.lexists(target) and not replace:
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.")
    try:
        os.mkdir(temporary)
        yield temporary
        sync_directory(temporary)
        _take_name(temporary, target)
        sync_directory(parent)
    except OSError as error:
        if not isinstance(error, OSError) or error.errno is None:
            raise
        raise CacheError(f"cannot write {target}: {error.strerror}", hint="Choose a place with room.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: str, target: str) -> None:
    if not os.path.lexists(target):
        os.rename(temporary, target)
        return
    if not os.path.exists(os.path.join(target, "oci-layout")):
        raise UsageError(f"{target} is no OCI layout, so it is not replaced", hint="Give another name.")
    old = f"{temporary}.old"
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
