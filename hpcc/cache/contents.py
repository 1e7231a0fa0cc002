"""What a cache holds, and taking things out of it."""

import os
from collections.abc import Iterable

from hpcc.cache import walk
from hpcc.cache.index import remove_missing
from hpcc.cache.layout import Cache
from hpcc.errors import CacheError
from hpcc.records import NamedTuple

KINDS = ("sif", "blob", "pack")
_PLACES = {"sif": ("sif-v1", 0), "blob": ("oci/blobs", 1), "pack": ("packs-v1", 0)}


class Item(NamedTuple):
    """One object.

    size: bytes that it takes. used: when a run last started from it, or else when it was made; seconds since the epoch.
    """

    kind: str
    name: str
    path: str
    size: int
    made: float
    used: float
    owner: int

    @property
    def key(self) -> str:
        """Of a SIF or a blob: what it is named by, without the number that one beside an occupied name has."""
        return self.name.partition(".")[0]


def contents(cache: Cache) -> list[Item]:
    """All objects of a cache, oldest use first. What vanishes meanwhile is left out."""
    found = []
    for kind, (place, depth) in _PLACES.items():
        for path, status in walk.files(cache, place, depth):
            name = os.path.basename(path).removesuffix(".sif")
            size = min(status.st_size, status.st_blocks * 512)  # a file of holes claims terabytes, and takes nothing
            item = Item(kind, name, cache.path(path), size, status.st_mtime, status.st_mtime, status.st_uid)
            if kind == "sif":
                item = item._replace(used=max(item.made, last_use(cache, item.key)))
            found.append(item)
    return sorted(found, key=lambda item: (item.used, item.name))


def last_use(cache: Cache, key: str) -> float:
    """When a run last started from the SIF `key`, by whomever; 0 where nobody says."""
    return max((entry.status.st_mtime for entry in walk.files(cache, f"uses/{key}")), default=0.0)


def owner_of(cache: Cache) -> int | None:
    """Whose directory the cache is; None where there is none yet."""
    try:
        return os.stat(cache.root).st_uid
    except OSError:
        return None


def is_in_charge(cache: Cache) -> bool:
    """Whether this user may remove what others made: root, and the owner of the cache's directory."""
    return os.geteuid() in (0, owner_of(cache))


def remove(cache: Cache, items: Iterable[Item]) -> tuple[int, int]:
    """Take objects out; (how many, how many bytes). Runs of this host that have one open are not disturbed.

    On NFS, a run on another node loses the file: where such may be, garbage collection goes by way of the trash.

    Idempotent. CacheError for an object of somebody else that this user may not remove.
    """
    count = size = 0
    for item in items:
        try:
            walk.unlink(cache, os.path.relpath(item.path, cache.root))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CacheError(f"cannot remove {item.path}: {error.strerror}", hint="Its owner can.") from None
        count, size = count + 1, size + item.size
    remove_missing(cache)
    return count, size
