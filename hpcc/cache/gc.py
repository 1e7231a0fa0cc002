"""Garbage collection: what a cache can do without, and taking that away.

What goes, in this order:

    SIFs that were not used for `max_age`
    blobs and packs that belong to no SIF
    blobs and packs of images that were not used for `max_age`
    down to `max_size`: layers' blobs and packs, which only save work; then images, by their last use

An image of which no SIF was made yet, as after `cache import`, needs its layers as it needs its documents.

Never: an image that is pinned, has a root, or was used within the grace time; an object younger than that; and of a SIF
that stays, the documents without which a registry would have to be asked. To go is to go to the trash (trash.py).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from hpcc.cache.contents import Item
from hpcc.cache.needs import Needs, base_name
from hpcc.records import NamedTuple

NOTHING = Needs(frozenset(), frozenset())
UNUSED, UNREFERENCED, OVER = "not used for long", "of no image", "over the size"


class Policy(NamedTuple):
    """Seconds, bytes; 0 for no bound of age or size. `owner`: whose objects alone may go, and are counted."""

    grace: float
    max_age: float = 0.0
    max_size: int = 0
    owner: int | None = None


class Removal(NamedTuple):
    """What goes, and why: UNUSED, UNREFERENCED or OVER."""

    item: Item
    why: str


def plan_gc(
    items: Iterable[Item], needs: Mapping[str, Needs], kept: Collection[str], now: float, policy: Policy
) -> tuple[Removal, ...]:
    """What is to go, in this order. Pure; the order of `items`, all that the cache holds, does not matter.

    needs: by the key of a SIF; by "@" and its manifest's digits of an image that was not made into one yet, which
    counts as used when its manifest came. kept: the keys that are pinned or have a root.
    """
    return _Plan(items, needs, kept, now, policy).make()


def is_protected(item: Item, kept: Collection[str], now: float, grace: float) -> bool:
    """Whether an object may not go at all: of a SIF, whatever its place is needed for; of the rest, for its youth."""
    if item.kind == "sif":
        return item.key in kept or now - item.used < grace
    return now - item.made < grace


_Image = tuple[float, str, Item | None, frozenset[str]]  # its last use, what is its own alone, its SIF, what it needs


class _Plan:
    def __init__(
        self, items: Iterable[Item], needs: Mapping[str, Needs], kept: Collection[str], now: float, policy: Policy
    ) -> None:
        self._needs, self._kept, self._now, self._policy = needs, kept, now, policy
        # A clock that ran ahead makes nothing newer than all others for ever.
        ordered = sorted(items, key=lambda item: (min(item.used, now), item.kind, item.name, item.path))
        self._sifs = [item for item in ordered if item.kind == "sif"]
        self._rest = [item for item in ordered if item.kind != "sif"]
        self._size = sum(item.size for item in ordered if self._is_ours(item))
        self._gone: dict[str, Removal] = {}

    def make(self) -> tuple[Removal, ...]:
        age = self._policy.max_age
        for item in self._sifs:
            if age and self._now - item.used > age:
                self._take(item, UNUSED)
        alive = [item for item in self._sifs if item.path not in self._gone]
        documents = Counter(name for item in alive for name in self._of(item).documents)
        last: dict[str, float] = {}  # last use of what blobs and packs save the work for
        unmade: list[tuple[float, str, frozenset[str]]] = []
        for key, used in self._unmade():
            if not age or self._now - used <= age:
                names = self._needs[key].documents | self._needs[key].savings
                documents.update(names)
                unmade.append((used, key, names))
            else:
                last.update((name, max(last.get(name, 0.0), used)) for name in self._needs[key].savings)
        for item in alive:
            for name in self._of(item).savings:
                last[name] = max(last.get(name, 0.0), min(item.used, self._now))
        savings = []
        for item in self._rest:
            name = base_name(item)
            if documents[name]:
                continue
            if name not in last:
                self._take(item, UNREFERENCED)
            elif age and self._now - last[name] > age:
                self._take(item, UNUSED)
            else:
                savings.append((last[name], item.kind, item.name, item.path, item))
        if self._policy.max_size:
            for *_, item in sorted(savings, key=lambda each: each[:4]):
                self._take_if_over(item)
            images: list[_Image] = [(min(sif.used, self._now), sif.path, sif, self._of(sif).documents) for sif in alive]
            images += [(used, key, None, names) for used, key, names in unmade]
            self._shrink(sorted(images, key=lambda image: image[:2]), documents)
        return tuple(self._gone.values())

    def _shrink(self, images: list[_Image], documents: "Counter[str]") -> None:
        """Let images go, and with each what it needs and no other one does, until the size is right."""
        by_name: dict[str, list[Item]] = {}
        for item in self._rest:
            by_name.setdefault(base_name(item), []).append(item)
        for _, _, sif, names in images:
            if not (self._is_over() if sif is None else self._take_if_over(sif)):
                continue
            for name in sorted(names):
                documents[name] -= 1
                if not documents[name]:
                    for item in by_name.get(name, ()):
                        self._take(item, UNREFERENCED if sif else OVER)

    def _unmade(self) -> list[tuple[str, float]]:
        """The keys of images without a SIF, and when each manifest came."""
        came = {base_name(item): min(item.made, self._now) for item in self._rest}
        return [(key, came[key[1:]]) for key in self._needs if key[:1] == "@" and key[1:] in came]

    def _of(self, sif: Item) -> Needs:
        return self._needs.get(sif.key, NOTHING)

    def _is_ours(self, item: Item) -> bool:
        return self._policy.owner is None or item.owner == self._policy.owner

    def _is_over(self) -> bool:
        return self._size > self._policy.max_size

    def _take_if_over(self, item: Item) -> bool:
        return self._is_over() and self._take(item, OVER)

    def _take(self, item: Item, why: str) -> bool:
        """Have it go if it may; whether it does."""
        if item.path in self._gone or not self._is_ours(item):
            return False
        if is_protected(item, self._kept, self._now, self._policy.grace):
            return False
        self._gone[item.path] = Removal(item, why)
        self._size -= item.size
        return True
