"""Files outside of the cache that stand for an image in it: what Snakemake's prefixes and users have.

    roots/<hash of path>/<uid>     one file per writer, JSON: path, key

A root keeps its image from garbage collection as long as the path leads to that image: a link to the cached SIF, or a
copy. Paths are anybody's words: only regular files are opened (mark.py), and what cannot be looked into counts as
there.
"""

import errno
import json
import os
from collections.abc import Callable
from hashlib import sha256

from hpcc.cache import walk
from hpcc.cache.layout import Cache
from hpcc.cache.mark import is_key, read_mark_at
from hpcc.cache.walk import Cleared, Entry
from hpcc.quickjson import loads
from hpcc.records import NamedTuple

MAX_SIZE = 8192
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Root(NamedTuple):
    """`uid` by the owner of the record; path and key by what it says."""

    path: str
    key: str
    uid: int


def register_root(cache: Cache, path: str, key: str) -> None:
    """Note that the file at `path`, relative to the working directory or absolute, is the image `key` of this cache.

    Atomic, idempotent. CacheError where the cache cannot be written to.
    """
    path = os.path.abspath(path)
    data = json.dumps({"path": path, "key": key}).encode()
    name = sha256(os.fsencode(path)).hexdigest()[:40]
    cache.write(cache.path("roots", name, str(os.getuid())), data)


def forget_root(cache: Cache, path: str) -> bool:
    """Forget that `path` stands for an image, as far as this user said so; whether there was anything. Idempotent.

    CacheError where the record may not be removed.
    """
    name = sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:40]
    return walk.remove_own(cache, f"roots/{name}")


def read_roots(cache: Cache) -> tuple[Root, ...]:
    """All that are registered, there or not; sorted by path. What does not parse is left out."""
    found = {root for entry in walk.files(cache, "roots", 1) if (root := _read(cache, entry)) is not None}
    return tuple(sorted(found))


def is_alive(root: Root) -> bool:
    """Whether the path still leads to that image, as far as this user can tell."""
    try:
        mark = read_mark_at(root.path)
    except OSError as error:
        return error.errno not in _GONE
    except ValueError:  # a path with a NUL
        return False
    return mark is not None and mark.key == root.key


def rooted_keys(cache: Cache, alive: Callable[[Root], bool] = is_alive) -> dict[str, tuple[Root, ...]]:
    """The roots that are alive, by the key of the image."""
    found: dict[str, tuple[Root, ...]] = {}
    for root in read_roots(cache):
        if alive(root):
            found[root.key] = (*found.get(root.key, ()), root)
    return found


def prune_roots(cache: Cache, *, before: float, owner: int | None = None, dry_run: bool = False) -> Cleared:
    """Remove the records of roots that are no more, and what is none, if not written since `before`. Idempotent.

    Only those of `owner`, if that is given, and what the kernel lets this user remove.
    """

    def is_dead(entry: Entry) -> bool:
        if entry.status.st_mtime >= before:
            return False
        root = _read(cache, entry)
        return root is None or not is_alive(root)

    return walk.clear(cache, "roots", is_dead, before=before, owner=owner, dry_run=dry_run)


def _read(cache: Cache, entry: Entry) -> Root | None:
    try:
        document = loads(walk.read(cache, entry.path, MAX_SIZE) or b"")
        path, key = document["path"], document["key"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(path, str) or not isinstance(key, str) or not path.startswith("/") or not is_key(key):
        return None
    return Root(path, key, entry.status.st_uid)
