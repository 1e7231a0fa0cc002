"""What a cache holds by image, who uses it, and what sharing saves.

All this is read from what is there anyway; a run writes nothing for it. uses/<key>/<uid> is touched once an hour at
most by a user's runs, and grows by a byte each time, so what is known are hours in which somebody ran an image: a lower
bound of the runs. A pull that was saved is a user beyond the first one of an image; with a cache of their own, each had
to fetch the manifest, which counts, and the layers.
"""

import os
import time
from collections.abc import Iterable

from hpcc.cache import walk
from hpcc.cache.blobs import read_blob
from hpcc.cache.contents import KINDS, Item, contents
from hpcc.cache.layout import Cache
from hpcc.cache.needs import mark_of
from hpcc.checking import read_refs
from hpcc.errors import HpccError
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from hpcc.records import NamedTuple

SHOWN = 20  # images in a notebook's table


class Kind(NamedTuple):
    """How much of one kind one cache holds."""

    cache: str
    kind: str
    objects: int
    size: int


class Usage(NamedTuple):
    """One image. reference: registry/repository@digest; tags: those that mean it; layers: bytes as they were pulled, 0
    where its manifest is gone; hours: in which users ran it, as far as is known; times in seconds since the epoch.
    """

    reference: str
    tags: tuple[str, ...]
    cache: str
    size: int
    layers: int
    made: float
    used: float
    users: int
    hours: int


class Stats(NamedTuple):
    """images: the largest first. layers, different_layers: bytes of all images' layers, and of those that differ."""

    kinds: tuple[Kind, ...]
    images: tuple[Usage, ...]
    tags: int
    layers: int
    different_layers: int

    @property
    def shared(self) -> float:
        """The share of layers' bytes that was not fetched and converted again, since another image had them."""
        return 1 - self.different_layers / self.layers if self.layers else 0.0

    @property
    def hours(self) -> int:
        return sum(each.hours for each in self.images)

    @property
    def saved_pulls(self) -> int:
        return sum(max(0, each.users - 1) for each in self.images)

    @property
    def saved_bytes(self) -> int:
        return sum(max(0, each.users - 1) * each.layers for each in self.images)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from hpcc.tables import size, table

        kinds = [(each.cache, f"{each.kind}s", str(each.objects), size(each.size)) for each in self.kinds]
        images = [
            (
                min(each.tags, key=len) if each.tags else each.reference,
                size(each.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)),
                str(each.users),
            )
            for each in self.images[:SHOWN]
        ]
        more = len(self.images) - len(images)
        left = f"<p>and {more} more</p>" if more else ""
        saved = f"<p>Layers that images share saved {self.shared:.0%}; {self.saved_pulls} pull(s) were saved.</p>"
        return (
            table(("cache", "", "objects", "size"), kinds)
            + table(("image", "size", "used", "users"), images)
            + left
            + (saved if self.layers else "")
        )


def read_stats(caches: Iterable[Cache]) -> Stats:
    """Of these caches together. Never fails for what vanishes or is damaged: that is not counted."""
    kinds: list[Kind] = []
    images: list[Usage] = []
    tags = total = 0
    layers: dict[tuple[str, Digest], int] = {}
    for cache in caches:
        items = contents(cache)
        for kind in KINDS:
            sizes = [item.size for item in items if item.kind == kind]
            kinds.append(Kind(cache.root, kind, len(sizes), sum(sizes)))
        names = _names(cache)
        tags += len({name for found in names.values() for name in found})
        for item in items:
            if item.kind != "sif" or (mark := mark_of(cache, item)) is None:
                continue
            digest = mark.reference.rpartition("@")[2]
            parts = _layers(cache, digest)
            size = sum(each.size for each in parts)
            total += size
            layers.update({(cache.root, each.digest): each.size for each in parts})
            users, hours = _uses(cache, item)
            own = tuple(sorted(names.get((mark.reference.rpartition("@")[0], digest), ())))
            images.append(Usage(mark.reference, own, cache.root, item.size, size, item.made, item.used, users, hours))
    images.sort(key=lambda each: (-each.size, each.reference))
    return Stats(tuple(kinds), tuple(images), tags, total, sum(layers.values()))


def _names(cache: Cache) -> dict[tuple[str, str], set[str]]:
    """(registry/repository, digest) -> the tags that mean it, also by way of an index."""
    found: dict[tuple[str, str], set[str]] = {}
    for ref in read_refs(cache):
        name, _, _ = ref.name.rpartition(":")
        digests = [ref.digest]
        document = _document(cache, ref.digest)
        if isinstance(document, Index):
            digests += [str(each.digest) for each in document.manifests]
        for digest in digests:
            found.setdefault((name, digest), set()).add(ref.name)
    return found


def _layers(cache: Cache, digest: str) -> tuple[Descriptor, ...]:
    """The different layers of a manifest."""
    document = _document(cache, digest)
    return tuple({each.digest: each for each in document.layers}.values()) if isinstance(document, Manifest) else ()


def _document(cache: Cache, digest: str) -> Manifest | Index | None:
    try:
        data = read_blob((cache,), Digest.parse(digest))
        return parse_manifest(data) if data is not None else None
    except HpccError:
        return None


def _uses(cache: Cache, item: Item) -> tuple[int, int]:
    """(users, hours in which they ran it)."""
    key = item.name.partition(".")[0]
    sizes = [
        entry.status.st_size
        for entry in walk.records(cache, f"uses/{key}")
        if os.path.basename(entry.path) == str(entry.status.st_uid)
    ]
    return len(sizes), sum(1 + size for size in sizes)
