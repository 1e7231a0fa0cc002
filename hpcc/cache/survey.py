"""What the directory of a cache is like: whose it is, who may write there, how much room there is, what is wrong."""

import os
import stat
from collections.abc import Mapping

from hpcc.cache import walk
from hpcc.cache.contents import owner_of
from hpcc.cache.layout import Cache
from hpcc.records import NamedTuple
from hpcc.settings import SMALL


class Tier(NamedTuple):
    """One cache. mode and owner are None where there is none yet; room is in bytes, of the place where it will be.

    trusted_users, trusted_groups: by the settings and the cache's policy, beside oneself, root and the owner.
    """

    kind: str  # library | shared | private
    path: str
    owner: int | None
    mode: int | None
    trusted_users: tuple[str, ...]
    trusted_groups: tuple[str, ...]
    room: int
    images: int
    writable: bool
    warnings: tuple[str, ...]


def survey(cache: Cache, kind: str, home: str) -> Tier:
    """Look at one cache; nothing is changed. CacheError where its policy does not parse."""
    users, groups = cache.policy.names()
    owner = owner_of(cache)
    mode = None if owner is None else stat.S_IMODE(os.stat(cache.root).st_mode)
    place = _existing(cache.root)
    room = _room(place)
    problem = walk.closed(cache)
    images = sum(name.endswith(".sif") for name in walk.names(cache, "sif-v1"))
    writable = not problem and os.access(place, os.W_OK | os.X_OK) and not os.statvfs(place).f_flag & os.ST_RDONLY
    tier = Tier(kind, cache.root, owner, mode, users, groups, room, images, writable, ())
    warnings = warnings_of(tier, home, is_named=_is_named(owner, cache))
    return tier._replace(warnings=(f"hpcc cannot look into it: {problem}", *warnings) if problem else warnings)


def warnings_of(tier: Tier, home: str, *, is_named: bool) -> tuple[str, ...]:
    """What is wrong with a cache. Pure. is_named: somebody has said that its owner is to be trusted."""
    found = []
    if tier.kind != "library" and is_below(tier.path, home) and tier.room < SMALL:
        found.append(
            f"lies in a home directory with {tier.room / 1e9:.1f} GB free: images alone are kept there, no layers; "
            "HPCC_CACHE_DIR names a roomier place"
        )
    if not is_named:
        found.append("belongs to somebody whom no setting names, and whose images you run all the same")
    if tier.mode is not None:
        if tier.mode & stat.S_IWOTH:
            found.append("everybody can write there: chmod o-w")
        if tier.mode & stat.S_IWGRP and not tier.mode & stat.S_ISVTX:
            found.append("its group can replace what others put there: `hpcc cache init --group` makes it sticky")
    if tier.kind == "private" and tier.mode is not None and tier.mode & 0o077:
        found.append("others can look into it: chmod go=")
    return tuple(found)


def roomier_places(
    cache_dir: str, home: str, variables: tuple[str, ...], environ: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """(variable, directory) of those that name a place to write to, where the cache lies in a small home; else none."""
    if not is_below(cache_dir, home) or _room(_existing(cache_dir)) >= SMALL:
        return ()
    found = ((name, environ.get(name, "")) for name in variables)
    return tuple(
        (name, path)
        for name, path in found
        if path.startswith("/")
        and not is_below(path, home)
        and os.path.isdir(path)
        and os.access(path, os.W_OK | os.X_OK)
    )


def is_below(path: str, home: str) -> bool:
    return f"{path}/".startswith(home.rstrip("/") + "/")


def _is_named(owner: int | None, cache: Cache) -> bool:
    """Whether the owner is this user, root, or named, and not only trusted because the cache is his."""
    return owner in (None, 0, os.getuid()) or cache.policy.names_user(owner)


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _room(place: str) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
