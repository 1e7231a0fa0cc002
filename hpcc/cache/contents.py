"""What a cache holds, and taking things out of it."""

import os
from collections.abc import Iterable

from hpcc.cache.index import remove_missing
from hpcc.cache.layout import Cache
from hpcc.errors import CacheError
from hpcc.records import NamedTuple

KINDS = ("sif", "blob", "pack")
_PLACES = {"sif": "sif-v1", "blob": "oci/blobs", "pack": "packs-v1"}


class Item(NamedTuple):
    """One object. `used`: when a run last started from it, or else when it was made; seconds since the epoch."""

    kind: str
    name: str
    path: str
    size: int
    made: float
    used: float
    owner: int


def contents(cache: Cache) -> list[Item]:
    """All objects of a cache, oldest use first. What vanishes meanwhile is left out."""
    found = []
    for kind in KINDS:
        for path in _files(cache.path(_PLACES[kind])):
            try:
                status = os.lstat(path)
            except OSError:
                continue
            name = os.path.basename(path).removesuffix(".sif")
            used = max(status.st_mtime, _last_use(cache, name)) if kind == "sif" else status.st_mtime
            found.append(Item(kind, name, path, status.st_size, status.st_mtime, used, status.st_uid))
    return sorted(found, key=lambda item: (item.used, item.name))


def remove(cache: Cache, items: Iterable[Item]) -> tuple[int, int]:
    """Take objects out; (how many, how many bytes). Runs that have one open are not disturbed: the file lives on.

    Idempotent. CacheError for an object of somebody else that this user may not remove.
    """
    count = size = 0
    for item in items:
        try:
            os.unlink(item.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CacheError(f"cannot remove {item.path}: {error.strerror}", hint="Its owner can.") from None
        count, size = count + 1, size + item.size
    remove_missing(cache)
    return count, size


def _files(top: str) -> list[str]:
    found = []
    for directory, _, names in os.walk(top):
        found += [os.path.join(directory, name) for name in names]
    return found


def _last_use(cache: Cache, key: str) -> float:
    directory = cache.path("uses", key)
    try:
        return max((entry.stat().st_mtime for entry in os.scandir(directory)), default=0.0)
    except OSError:
        return 0.0
