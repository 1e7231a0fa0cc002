"""What is left over in a cache beside its objects: of killed processes, of images that are gone, of old times.

Each is small, and is deleted at once rather than put into the trash: what is worth keeping is not among it.
"""

import fcntl
import os
import time

from hpcc.cache import walk
from hpcc.cache.layout import Cache
from hpcc.cache.locking import COHERENT
from hpcc.cache.mark import is_key
from hpcc.cache.roots import prune_roots
from hpcc.cache.temporary import sweep
from hpcc.cache.walk import Cleared, Entry
from hpcc.errors import HpccError
from hpcc.oci.digest import Digest
from hpcc.quickjson import loads

DAY = 86400.0
LOCK_AGE = DAY
TEMPORARY_AGE = DAY
LIMIT_AGE = 7 * DAY
EMPTY_AGE = 3600.0  # seconds; somebody may be about to put something into a younger directory
REF_SIZE = 4096


def tidy(cache: Cache, grace: float, *, owner: int | None = None, dry_run: bool = False) -> dict[str, Cleared]:
    """Remove the residue, by what it is; only what belongs to `owner`, if that is given. Idempotent.

    What somebody else is just using, may not be removed by this user, or vanishes meanwhile, is passed over.
    """
    now = time.time()
    sifs = _stems(cache, "sif-v1")
    blobs = {name: _stems(cache, f"oci/blobs/{name}") for name in walk.names(cache, "oci/blobs")}

    def clear(top: str, age: float, is_dead: walk.Judge) -> Cleared:
        def is_over(entry: Entry) -> bool:
            return entry.status.st_mtime < now - age and is_dead(entry)

        return walk.clear(cache, top, is_over, before=now - EMPTY_AGE, owner=owner, dry_run=dry_run)

    return {
        # Somebody may be writing to one on another host, whatever the grace time.
        "temporaries": _sweep(cache, dry_run) + clear("tmp", max(grace, TEMPORARY_AGE), lambda entry: True),
        "refs": clear("refs", grace, lambda entry: _is_broken(cache, entry, blobs)),
        "limits": clear("limits", LIMIT_AGE, lambda entry: True),
        "locks": clear("locks", LOCK_AGE, lambda entry: _is_free(cache, entry)),
        "uses": clear("uses", grace, lambda entry: entry.path.split("/")[1] not in sifs),
        "pins": clear("pins", grace, lambda entry: not is_key(entry.path.split("/")[1])),
        "roots": prune_roots(cache, before=now - grace, owner=owner, dry_run=dry_run),
    }


def _sweep(cache: Cache, dry_run: bool) -> Cleared:
    """Temporaries of killed processes of this host; by the descriptor of tmp/, which is no link then."""
    if dry_run:
        return Cleared()
    try:
        with walk.opened(cache, "tmp") as fd:
            return Cleared(sweep(f"/proc/self/fd/{fd}"))
    except OSError:
        return Cleared()


def _is_broken(cache: Cache, entry: Entry, blobs: dict[str, set[str]]) -> bool:
    """Whether a ref leads nowhere in this cache."""
    try:
        digest = Digest.parse(str(loads(walk.read(cache, entry.path, REF_SIZE) or b"")["digest"]))
    except (HpccError, ValueError, KeyError, TypeError, RecursionError):
        return True
    return digest.hex not in blobs.get(digest.algorithm, ())


def _stems(cache: Cache, directory: str) -> set[str]:
    """The names of the objects in a directory; of one beside an occupied name, the name that was occupied."""
    return {name.partition(".")[0] for name in walk.names(cache, directory)}


def _is_free(cache: Cache, entry: Entry) -> bool:
    """Whether nobody holds the lock. To remove one that somebody is about to take costs work that is done twice."""
    name = entry.path.rpartition("/")[2]
    if name == COHERENT:  # no lock, but what is known of this filesystem
        return False
    stem = name.removesuffix(".who")
    for mode in (os.O_RDWR, os.O_RDONLY):  # NFS lets none lock exclusively who may not write
        try:
            with walk.opened(cache, "locks") as directory:
                fd = os.open(stem, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError:
            return True  # a note on a lock that is gone
        except PermissionError:
            continue
        except OSError:
            return True  # a link: no lock
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            continue
        finally:
            os.close(fd)
    return False  # nobody can tell
