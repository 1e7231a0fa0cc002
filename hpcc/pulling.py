"""A cache miss: ask the registry, fetch, convert, publish. By one process for all that want the image.

reference --HEAD--> digest --GET--> manifest, config --> layers, in parallel: blob -> pack --> SIF
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

from hpcc.blocks import Compressor, default_compressor, thread_count
from hpcc.cache.flight import single_flight
from hpcc.cache.index import add_to_index
from hpcc.cache.layout import Cache
from hpcc.cache.refs import read_ref
from hpcc.cache.temporary import sweep
from hpcc.convert import OpenPack, assemble, convert_layer, pack_name
from hpcc.errors import CacheError, HpccError, IntegrityError, InvalidImage, RateLimited, RegistryUnavailable
from hpcc.local import Image
from hpcc.lookup import find_cached, open_cached, origin_of, tiers
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor
from hpcc.oci.platform import Platform, match_order
from hpcc.oci.reference import Reference
from hpcc.pack import read_pack
from hpcc.progress import SILENT, Progress
from hpcc.registry.client import Registry
from hpcc.settings import Settings
from hpcc.sources.docker import Found, GrowingFile, Restarted, cached_chunks, connect, download, find_image

DOWNLOADS = 4  # layers at a time


def pull_image(uri: str, settings: Settings, *, arch: str | None = None, progress: Progress = SILENT) -> Image:
    """The image, from a cache if it is there by now, else from its registry, published in the cache.

    Idempotent; safe to call from any number of processes at once. Raises HpccError.
    """
    reference = Reference.parse(uri)
    platform = Platform.parse(arch) if arch else Platform.host()
    *libraries, shared, private = tiers(settings)
    registry = connect(reference, settings)
    # What the user has credentials for may be private: then its name goes into no lock that others see.
    locks = private if registry.credentials is not None else shared

    def look() -> Image | None:
        return find_cached(uri, settings, arch=arch)

    def work() -> Image:
        for tier in (shared, private):
            sweep(tier.path("tmp"))  # also what a process left from which we take over
        try:
            found = find_image(reference, platform, registry, shared, private)
        except (RegistryUnavailable, RateLimited) as error:
            return _stale(uri, reference, settings, arch, error, progress)
        origin = origin_of(reference, found.digest, platform)

        def cached() -> Image | None:
            return open_cached((*libraries, shared, private), origin, uri)

        def convert() -> Image:
            return _convert(uri, reference, found, registry, settings, platform=platform, progress=progress)

        if found.config.architecture and found.config.platform not in match_order(platform):
            progress.warning(f"{uri} is an image for {found.config.platform}, not for {platform}")
        image = single_flight(found.tier, origin.key, cached, convert, wait=settings.lock_wait, on_wait=waiting)
        try:
            add_to_index(found.tier, reference, found.digest, found.manifest.media_type)
        except CacheError as error:  # it is derived, and the image is there
            progress.warning(error.message)
        return image

    def waiting(holder: str) -> None:
        progress.info(f"Waiting for {holder}, who pulls {uri}")

    try:
        return single_flight(
            locks, f"{reference.canonical} {platform}", look, work, wait=settings.lock_wait, on_wait=waiting
        )
    except InvalidImage as error:  # said deep in a parser, which knows neither the image nor whom to ask
        said = error.message if uri in error.message else f"{uri}: {error.message}"
        raise InvalidImage(
            said, hint=error.hint or "The image is broken as it was pushed; tell whoever made it."
        ) from None
    finally:
        progress.close()
        registry.close()


def _stale(
    uri: str,
    reference: Reference,
    settings: Settings,
    arch: str | None,
    error: RegistryUnavailable | RateLimited,
    progress: Progress,
) -> Image:
    """What a cache still has of a tag whose registry does not answer; the error where it has nothing."""
    image = find_cached(uri, settings, arch=arch, stale=True)
    if image is None:
        raise error
    ages = [
        time.time() - ref.checked_at
        for cache in tiers(settings)
        if reference.tag and (ref := read_ref(cache, reference.name, reference.tag))
    ]
    age = f", as it was {min(ages) / 3600:.1f} hours ago" if ages else ""
    progress.warning(f"{error.message}; using the cached image{age}")
    return image


def _convert(
    uri: str,
    reference: Reference,
    found: Found,
    registry: Registry,
    settings: Settings,
    *,
    platform: Platform,
    progress: Progress,
) -> Image:
    """Fetch and convert what is missing, and publish the SIF."""
    tier = found.tier
    compressor = default_compressor()
    progress.stage("Pulling", sum(layer.size for layer in found.manifest.layers))
    with ExitStack() as stack:
        sources: dict[Digest, _Layer] = {}
        for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
            if diff_id not in sources:
                sources[diff_id] = _Layer(tier, layer, diff_id, compressor, settings, progress, stack)
        # Entered after the layers' files, so that no thread has one that is closed already.
        pool = stack.enter_context(_pool(thread_count()))
        converters = stack.enter_context(_pool(min(thread_count(), max(1, len(sources)))))
        fetch = partial(_Downloads(DOWNLOADS).start, registry, reference)
        waiting: list[Future[None]] = []
        try:
            missing = [source for source in sources.values() if source.pack is None]
            for source in missing:
                source.begin(fetch)
            waiting += [converters.submit(source.make, fetch, pool) for source in missing]
            for each in as_completed(waiting):
                each.result()
        except BaseException:
            for source in sources.values():
                source.cancel()
            for each in waiting:
                each.cancel()
            raise
        progress.stage("Converting")
        packs = [sources[diff_id].opened() for diff_id in found.config.diff_ids]
        file = stack.enter_context(tier.temporary())
        origin = origin_of(reference, found.digest, platform)
        assemble(file.fileno(), packs, origin, found.config, compressor, pool)
        path = tier.publish(file, tier.sif(origin.key))
        image = open_cached((tier,), origin, uri)
        if image is None:  # the name is a trusted person's, whose damaged file cannot be replaced
            tier.publish(file, tier.sif(origin.key), beside=True)
            image = open_cached((tier,), origin, uri)
    if image is None:
        raise IntegrityError(f"{path} is not what was just written there", hint="Somebody else writes to the cache.")
    return image


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Downloads:
    """Runs downloads, some at a time, in threads that nobody waits for at the end.

    A connection that hangs would hold up Ctrl-C, and the end of the interpreter, until its timeout.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def start(self, registry: Registry, reference: Reference, layer: Descriptor, target: GrowingFile) -> None:
        def run() -> None:
            with self._free:
                download(registry, reference, layer, target)

        threading.Thread(target=run, name=f"download {layer.digest}"[:24], daemon=True).start()


class _Layer:
    """One layer on its way to a pack: found in a cache, made from a blob there, or from the registry."""

    def __init__(
        self,
        tier: Cache,
        layer: Descriptor,
        diff_id: Digest,
        compressor: Compressor,
        settings: Settings,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self._tier, self._layer, self._diff_id, self._compressor = tier, layer, diff_id, compressor
        self._settings, self._progress, self._stack = settings, progress, stack
        self._name = pack_name(diff_id, compressor.id)
        self._cached: Iterator[bytes] | None = None
        self._download: GrowingFile | None = None
        self._given_up = False
        self.pack = _open_pack(tier, self._name, stack)
        if self.pack is None:
            self._blob: BinaryIO = stack.enter_context(tier.temporary())
            self._pack_file: BinaryIO = stack.enter_context(tier.temporary())
        else:
            progress.advance(layer.size)

    def opened(self) -> OpenPack:
        assert self.pack is not None
        return self.pack

    def cancel(self) -> None:
        self._given_up = True
        if self._download is not None:
            self._download.cancel()

    def begin(self, fetch: Callable[[Descriptor, GrowingFile], None]) -> None:
        """Look for the blob in the cache; where it is not there, have `fetch` start its download."""
        self._cached = cached_chunks(self._tier, self._layer)
        if self._cached is None:
            self._fetch(fetch)

    def _fetch(self, fetch: Callable[[Descriptor, GrowingFile], None]) -> GrowingFile:
        self._download = GrowingFile(self._blob, self._progress)
        if self._given_up:
            self._download.cancel()
        fetch(self._layer, self._download)
        return self._download

    def make(self, fetch: Callable[[Descriptor, GrowingFile], None], pool: ThreadPoolExecutor) -> None:
        """Write the pack; publish it, and the blob, as far as the settings keep them. After `begin`."""
        if self._cached is not None:
            try:
                self._write(self._cached, pool)
                self._progress.advance(self._layer.size)
                return
            except (IntegrityError, InvalidImage):
                self._progress.warning(f"layer {self._layer.digest} in the cache is damaged; it is fetched again")
        coming = self._download or self._fetch(fetch)
        while True:  # a download begins again a few times at most
            try:
                return self._write(coming.chunks(), pool, downloaded=True)
            except Restarted:
                continue

    def _write(self, chunks: Iterator[bytes], pool: ThreadPoolExecutor, *, downloaded: bool = False) -> None:
        self._pack_file.seek(0)
        self._pack_file.truncate()
        try:
            pack = convert_layer(chunks, self._diff_id, self._pack_file, self._compressor, pool)
        except (IntegrityError, InvalidImage):
            # Bytes that the registry altered look like a broken layer: what the download says of them comes first.
            for _ in chunks:
                pass
            raise
        except HpccError:
            raise  # some are OSErrors as well
        except OSError as error:
            raise CacheError(f"cannot write to {self._tier.root}: {error.strerror}", hint="Is the disk full?") from None
        if downloaded and self._settings.keep_blobs:
            digest = self._layer.digest
            self._tier.publish(self._blob, self._tier.blob(digest.algorithm, digest.hex))
        self._pack_file.flush()
        if self._settings.keep_packs:
            self._tier.publish(self._pack_file, self._tier.pack(self._name))
        self.pack = OpenPack(pack, self._pack_file.fileno())


def _open_pack(tier: Cache, name: str, stack: ExitStack) -> OpenPack | None:
    """The pack from the cache; None where it is missing or damaged."""
    fd = tier.open(tier.pack(name))
    if fd is None:
        return None
    stack.callback(os.close, fd)
    try:
        pack = read_pack(lambda offset, size: os.pread(fd, size, offset), os.fstat(fd).st_size, name)
    except InvalidImage:
        return None
    return OpenPack(pack, fd)
