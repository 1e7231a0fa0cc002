"""One SIF of an image whose manifest and config are known: from a cache, or by one process for all that want its bytes.

layers: blob, or file -> pack, several at a time --> SIF, published
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager

from hpcc.blocks import thread_count
from hpcc.cache.flight import Tell, single_flight
from hpcc.cache.layout import TRIES, Cache
from hpcc.cache.locking import Locking
from hpcc.cache.room import check_room
from hpcc.compressors import make_compressor
from hpcc.convert import assemble
from hpcc.errors import IntegrityError
from hpcc.layers import Downloads, Layer, Workshop
from hpcc.local import Image
from hpcc.lookup import open_cached, tiers
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor
from hpcc.origin import Origin
from hpcc.progress import Progress, Telling
from hpcc.records import NamedTuple
from hpcc.registry.upstream import Upstream
from hpcc.settings import Settings

Read = Callable[[Descriptor], Iterator[bytes]]
"""A layer's bytes from a file on this host."""


class Material(NamedTuple):
    """What a SIF is made of. The layers are as many as the config's diff ids, in their order.

    tier: where its parts and the SIF are published; readable: where parts may come from.
    """

    uri: str
    origin: Origin
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    tier: Cache
    readable: tuple[Cache, ...]


def make_sif(
    material: Material,
    source: Upstream | Read,
    settings: Settings,
    progress: Progress,
    waiting: Callable[[str], None],
) -> Image:
    """The SIF, from the cache, or converted by one process for all that want these bytes. Idempotent."""
    caches = tiers(settings)

    def cached() -> Image | None:
        return open_cached(caches, material.origin, material.uri)

    def convert(tell: Tell) -> Image:
        return _convert(material, source, settings, Telling(progress, tell))

    return single_flight(material.tier, material.origin.key, cached, convert, locking_of(settings), on_wait=waiting)


def locking_of(settings: Settings) -> Locking:
    """How the settings want locks to be."""
    return Locking(settings.lock, settings.lock_wait, settings.lease, settings.heartbeat)


def _convert(material: Material, source: Upstream | Read, settings: Settings, progress: Progress) -> Image:
    """Fetch and convert what is missing, and publish the SIF."""
    uri, origin, config, _, tier, readable = material
    upstream, read = (source, None) if isinstance(source, Upstream) else (None, source)
    compressor = make_compressor(settings.compression)
    with ExitStack() as stack:
        publisher = ThreadPoolExecutor(1)
        published: list[Future[object]] = []
        shop = Workshop(
            tier, readable, compressor, settings, progress, stack,
            lambda work: published.append(publisher.submit(work)), read,
        )  # fmt: skip
        layers = _open_layers(shop, material)
        # Entered after the layers' files, so that no thread has one that is closed already.
        stack.enter_context(publisher)
        pool = stack.enter_context(_pool(thread_count()))
        converters = stack.enter_context(_pool(min(thread_count(), max(1, len(layers)))))
        fetch = Downloads(upstream, settings.downloads).start if upstream is not None else _fetch_nothing
        waiting: list[Future[None]] = []
        try:
            # The largest first: it is what the others must not wait for.
            missing = sorted((layer for layer in layers.values() if layer.pack is None), key=lambda layer: -layer.size)
            check_room(tier.root, sum(layer.size for layer in missing), sum(layer.size for layer in layers.values()))
            for layer in missing:
                layer.begin(fetch)
            waiting += [converters.submit(layer.make, fetch, pool) for layer in missing]
            for each in as_completed(waiting):
                each.result()
        except BaseException:
            for layer in layers.values():
                layer.cancel()
            for each in waiting:
                each.cancel()
            raise
        packs = [layers[diff_id].opened() for diff_id in config.diff_ids]
        file = stack.enter_context(tier.temporary())
        assemble(file.fileno(), packs, origin, config, compressor, pool, progress)
        for publishing in published:
            publishing.result()
        for tries in range(TRIES):
            # Again where it was purged in this moment, or the name is a trusted person's, whose damaged file stays.
            path = tier.publish(file, tier.sif(origin.key), beside=tries > 0)
            image = open_cached((tier,), origin, uri)
            if image is not None:
                return image
    raise IntegrityError(f"{path} is not what was just written there", hint="Somebody else writes to the cache.")


def _fetch_nothing(layer: Descriptor, target: object) -> None:
    raise AssertionError(f"{layer.digest} is on this host")


def _open_layers(shop: Workshop, material: Material) -> dict[Digest, Layer]:
    """The different layers of an image, in their order; one that occurs twice is there once."""
    different = dict(zip(material.config.diff_ids, material.layers, strict=True))
    shop.progress.stage("Pulling" if shop.read is None else "Reading", sum(layer.size for layer in different.values()))
    return {
        diff_id: Layer(shop, layer, diff_id, f"layer {number} of {len(different)}, {layer.digest.hex[:12]}")
        for number, (diff_id, layer) in enumerate(different.items(), 1)
    }


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
