"""What garbage collection took away, until the grace time is over.

    trash/<seconds since the epoch>.<random>.<path from the cache's directory on, / as %2F>

To take away is a rename within the cache: a job that has just found a name can still be helped by hand (mv it back),
and a reader on NFS does not lose the file under its hands. What has lain here for long enough is deleted.
"""

import os
import secrets
import stat
from urllib.parse import quote

from hpcc.cache import walk
from hpcc.cache.layout import Cache
from hpcc.cache.walk import Cleared, Entry

DIRECTORY = "trash"
LONGEST_NAME = 255


def discard(cache: Cache, path: str, now: float) -> bool:
    """Move an object of the cache to the trash; False where it is gone already. Atomic. OSError where one may not.

    A directory in its place stays where it is.
    """
    head, _, name = path.rpartition("/")
    try:
        with walk.opened(cache, head) as source:
            if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                return False
            cache.make_directory(DIRECTORY)
            with walk.opened(cache, DIRECTORY) as target:
                new = f"{int(now)}.{secrets.token_hex(4)}.{quote(path, safe='')}"[:LONGEST_NAME]
                os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except FileNotFoundError:
        return False
    return True


def empty(cache: Cache, before: float, *, owner: int | None, now: float, dry_run: bool = False) -> Cleared:
    """Delete what was taken away earlier than `before`; only what is `owner`'s, if that is given. Idempotent."""

    def is_over(entry: Entry) -> bool:
        return _since(entry, now) <= before

    return walk.clear(cache, DIRECTORY, is_over, before=before, owner=owner, dry_run=dry_run)


def held(cache: Cache) -> tuple[int, int]:
    """How many objects are in the trash, and how many bytes."""
    sizes = [entry.status.st_size for entry in walk.files(cache, DIRECTORY)]
    return len(sizes), sum(sizes)


def _since(entry: Entry, now: float) -> float:
    """When it came here: by its name, or where that says nothing, or the future, by its last change."""
    stamp = entry.path.rpartition("/")[2].partition(".")[0]
    if stamp.isascii() and stamp.isdigit() and float(stamp) <= now + 1:
        return float(stamp)
    return entry.status.st_ctime
