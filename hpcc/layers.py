"""One layer on its way to a pack: found in a cache, made from a blob there, or fetched.

pack in a cache ────────────────────────────────────────────> OpenPack
file of the user's ──> convert_layer ──> pack, published ────> OpenPack
blob in a cache ──> convert_layer ──> pack, published ──────> OpenPack
upstream ──> GrowingFile ──> convert_layer, meanwhile ──────> OpenPack, and the blob published
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import BinaryIO

from hpcc.cache.layout import Cache
from hpcc.cache.partial import Partial, partial
from hpcc.compressors import Compressor
from hpcc.convert import OpenPack, convert_layer, pack_name
from hpcc.errors import CacheError, HpccError, IntegrityError, InvalidImage
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor
from hpcc.pack import read_pack
from hpcc.progress import Part, Progress
from hpcc.records import NamedTuple
from hpcc.registry.upstream import Upstream
from hpcc.settings import Settings
from hpcc.sources.growing import GrowingFile, Restarted, cached_chunks, download

Fetch = Callable[[Descriptor, GrowingFile], None]
"""Begins a download, and returns at once."""


class Downloads:
    """Runs downloads, some at a time, in threads that nobody waits for at the end.

    A connection that hangs would hold up Ctrl-C, and the end of the interpreter, until its timeout.
    """

    def __init__(self, upstream: Upstream, most: int) -> None:
        self._upstream, self._free = upstream, threading.BoundedSemaphore(most)

    def start(self, layer: Descriptor, target: GrowingFile) -> None:
        """A Fetch."""

        def run() -> None:
            with self._free:
                if not target.cancelled:
                    download(self._upstream, layer, target)

        threading.Thread(target=run, name=f"download {layer.digest}"[:24], daemon=True).start()


class Workshop(NamedTuple):
    """What all layers of a pull share. Parts are read from `readable`, and published in `tier`.

    publish: runs what it is given in another thread, so that nobody waits for the disk; errors come out in the end.
    read: a layer's bytes, where the image is a file on this host; nothing is fetched then, and no blob is kept.
    """

    tier: Cache
    readable: tuple[Cache, ...]
    compressor: Compressor
    settings: Settings
    progress: Progress
    stack: ExitStack  # closes what the layers open
    publish: Callable[[Callable[[], object]], object]
    read: Callable[[Descriptor], Iterator[bytes]] | None = None


class Layer:
    """One layer of an image. `begin`, then `make` in any thread, unless `pack` is there; then `pack` is."""

    def __init__(self, shop: Workshop, layer: Descriptor, diff_id: Digest, name: str) -> None:
        self._shop, self._layer, self._diff_id = shop, layer, diff_id
        self._pack_name = pack_name(diff_id, shop.compressor.id)
        self._part: Part = shop.progress.part(name, layer.size)
        self._cached: Iterator[bytes] | None = None
        self._download: GrowingFile | None = None
        self._given_up = False
        self.size = layer.size
        self.pack = _open_pack(shop, self._pack_name)
        if self.pack is None:
            if shop.read is None:
                self._blob: Partial = shop.stack.enter_context(partial(shop.tier, layer.digest, layer.size))
            self._pack_file: BinaryIO = shop.stack.enter_context(shop.tier.temporary())
        else:
            self._part.advance(layer.size)
            self._part.finish("converted before")

    def opened(self) -> OpenPack:
        assert self.pack is not None
        return self.pack

    def cancel(self) -> None:
        """End the download, and let `make` fail."""
        self._given_up = True
        if self._download is not None:
            self._download.cancel()

    def begin(self, fetch: Fetch) -> None:
        """Look for the blob in the caches; where it is not there, have `fetch` start its download."""
        if self._shop.read is not None:
            return
        self._cached = cached_chunks(self._shop.readable, self._layer)
        if self._cached is None:
            self._fetch(fetch)

    def _fetch(self, fetch: Fetch) -> GrowingFile:
        self._download = GrowingFile(self._blob.file, self._part, self._blob.have)
        if self._given_up:
            self._download.cancel()
        fetch(self._layer, self._download)
        return self._download

    def make(self, fetch: Fetch, pool: ThreadPoolExecutor) -> None:
        """Write the pack; publish it, and the blob, as far as the settings keep them. After `begin`."""
        if self._shop.read is not None:
            self._write(self._counted(self._unless_given_up(self._shop.read(self._layer))), pool)
            self._part.finish()
            return
        if self._cached is not None:
            try:
                self._write(self._unless_given_up(self._cached), pool)
                self._part.advance(self._layer.size)
                self._part.finish("in the cache")
                return
            except (IntegrityError, InvalidImage):
                self._shop.progress.warning(f"layer {self._layer.digest} in the cache is damaged; it is fetched again")
        coming = self._download or self._fetch(fetch)
        while True:  # a download begins again a few times at most
            try:
                self._write(coming.chunks(), pool, coming)
                self._part.finish()
                return
            except Restarted:
                continue

    def _unless_given_up(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for data in chunks:
            if self._given_up:
                raise InterruptedError("the pull was given up")
            yield data

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for data in chunks:
            self._part.advance(len(data))
            yield data

    def _telling(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks; tells after each how much of the pack is written meanwhile."""
        fd, told = self._pack_file.fileno(), 0
        for data in chunks:
            yield data
            size = os.fstat(fd).st_size
            self._shop.progress.wrote(size - told)
            told = size

    def _write(self, chunks: Iterator[bytes], pool: ThreadPoolExecutor, coming: GrowingFile | None = None) -> None:
        started = coming.restarts if coming is not None else 0
        tier = self._shop.tier
        self._pack_file.seek(0)
        self._pack_file.truncate()
        try:
            pack = convert_layer(
                self._telling(chunks),
                self._diff_id,
                self._pack_file,
                self._shop.compressor,
                pool,
                self._shop.settings.max_layer,
            )
        except (IntegrityError, InvalidImage) as error:
            # Bytes that somebody altered look like a broken layer: what the download says of them comes first.
            if coming is not None:
                coming.wait(started)
            raise type(error)(f"layer {self._layer.digest}: {error.message}", hint=error.hint) from None
        except HpccError:
            raise  # some are OSErrors as well
        except OSError as error:
            raise CacheError(f"cannot write to {tier.root}: {error.strerror}", hint="Is the disk full?") from None
        if coming is not None and self._shop.settings.keep_blobs:
            digest = self._layer.digest
            path = tier.blob(digest.algorithm, digest.hex)
            self._shop.publish(lambda: tier.publish(self._blob.file, path))
        self._pack_file.flush()
        if self._shop.settings.keep_packs:
            self._shop.publish(lambda: tier.publish(self._pack_file, tier.pack(self._pack_name)))
        self.pack = OpenPack(pack, self._pack_file.fileno())


def _open_pack(shop: Workshop, name: str) -> OpenPack | None:
    """The pack from a cache; None where it is missing or damaged."""
    for cache in shop.readable:
        fd = cache.open(cache.pack(name))
        if fd is None:
            continue
        shop.stack.callback(os.close, fd)
        try:
            pack = read_pack(_reader(fd), os.fstat(fd).st_size, name)
        except InvalidImage:
            continue
        return OpenPack(pack, fd)
    return None


def _reader(fd: int) -> Callable[[int, int], bytes]:
    return lambda offset, size: os.pread(fd, size, offset)
