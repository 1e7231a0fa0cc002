"""Carry garbage collection out on a cache: look, plan (gc.py), take away, tidy up.

Any number of these may run at once, and jobs and pulls meanwhile: what is gone already is no error.
"""

import os
import time

from hpcc.cache import trash, walk
from hpcc.cache.contents import Item, contents, is_in_charge, last_use
from hpcc.cache.gc import Policy, Removal, plan_gc
from hpcc.cache.index import remove_missing
from hpcc.cache.layout import Cache
from hpcc.cache.needs import Needs, base_name, read_needs
from hpcc.cache.pins import Pin, pins_of, read_pins
from hpcc.cache.residue import tidy
from hpcc.cache.roots import Root, rooted_keys
from hpcc.cache.walk import Cleared
from hpcc.errors import CacheError
from hpcc.progress import SILENT, Progress
from hpcc.records import NamedTuple


class Collection(NamedTuple):
    """What garbage collection did, or would do: `refused` are objects that may not be removed, each with the reason.

    emptied: out of the trash. tidied: by kind, see residue.py. left: what the cache holds now. trash: what lies there
    now, and how many bytes.
    """

    removed: tuple[Removal, ...]
    refused: tuple[tuple[Item, str], ...]
    emptied: Cleared
    tidied: dict[str, Cleared]
    left: tuple[Item, ...]
    pins: dict[str, tuple[Pin, ...]]
    roots: dict[str, tuple[Root, ...]]
    trash: tuple[int, int]


def collect(cache: Cache, policy: Policy, *, dry_run: bool = False, progress: Progress = SILENT) -> Collection:
    """Collect the garbage of one cache. Idempotent: what one left, another takes.

    Who is not in charge of the cache cleans what is his, whatever the policy's owner. CacheError where there is no
    place for the trash, or where not all can be seen: nothing is removed then.
    """
    now = time.time()
    if not is_in_charge(cache):
        policy = policy._replace(owner=os.geteuid())
    progress.stage("Looking through the cache")
    walk.look_through(cache, ("sif-v1", "packs-v1", "oci", "oci/blobs", "refs", "uses", "pins", "roots"))
    emptied = trash.empty(cache, now - policy.grace, owner=policy.owner, now=now, dry_run=dry_run)
    items = contents(cache)
    pins, roots = read_pins(cache), rooted_keys(cache)
    needs = read_needs(cache, items)
    plan = plan_gc(items, needs, {*pins, *roots}, now, policy)
    done = _Done(cache, needs, now, policy.grace)
    if dry_run:
        done.removed += plan
    else:
        done.apply(plan, progress)
    removed = tuple(done.removed)
    if removed and not dry_run:
        try:
            remove_missing(cache)
        except CacheError as error:  # it is derived, and the next one writes it
            progress.warning(error.message)
    tidied = tidy(cache, policy.grace, owner=policy.owner, dry_run=dry_run)
    gone = done.vanished | {removal.item.path for removal in removed}
    left = tuple(item for item in items if item.path not in gone)
    return Collection(removed, tuple(done.refused), emptied, tidied, left, pins, roots, trash.held(cache))


class _Done:
    """What was done of a plan. Where a SIF stays after all, so does what it needs."""

    def __init__(self, cache: Cache, needs: dict[str, Needs], now: float, grace: float) -> None:
        self._cache, self._needs, self._now, self._grace = cache, needs, now, grace
        self._spared: set[str] = set()
        self.removed: list[Removal] = []
        self.refused: list[tuple[Item, str]] = []
        self.vanished: set[str] = set()

    def apply(self, plan: tuple[Removal, ...], progress: Progress) -> None:
        """Move to the trash what is planned."""
        size = sum(removal.item.size for removal in plan)
        progress.stage("Removing", size)
        part = progress.part("objects", size)
        for removal in plan:
            item = removal.item
            try:
                if self._is_wanted(item):
                    self._spare(item)
                elif trash.discard(self._cache, os.path.relpath(item.path, self._cache.root), self._now):
                    self.removed.append(removal)
                else:
                    self.vanished.add(item.path)
            except OSError as error:
                self._spare(item)
                self.refused.append((item, str(error.strerror)))
            part.advance(item.size)

    def _is_wanted(self, item: Item) -> bool:
        """Whether a run has started from the SIF, or somebody has pinned it, since the cache was looked through."""
        if item.kind != "sif":
            return base_name(item) in self._spared
        return self._now - last_use(self._cache, item.key) < self._grace or bool(pins_of(self._cache, item.key))

    def _spare(self, item: Item) -> None:
        if item.kind == "sif" and item.key in self._needs:
            self._spared |= self._needs[item.key].documents
