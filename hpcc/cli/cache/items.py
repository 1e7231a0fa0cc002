"""Objects of the cache as the command line names and shows them."""

from typing import TYPE_CHECKING

from hpcc.cli.arguments import Arguments, Option
from hpcc.errors import CacheError, ImageNotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpcc.cache.contents import Item
    from hpcc.cache.layout import Cache
    from hpcc.cache.pins import Pin
    from hpcc.settings import Settings

TYPE_OPTION = Option(("-T", "--type"), "only these: sif, blob, pack, all; several by commas", "KIND")
SHORTEST = 8  # characters of a name that may stand for all of it


def own_tiers() -> "tuple[Cache, Cache]":
    """The caches that are this user's to write to, shared and private. CacheError for what cannot be looked into."""
    from hpcc.cache.walk import closed
    from hpcc.lookup import tiers
    from hpcc.settings import Settings

    shared, private = tiers(Settings.from_environ())[-2:]
    for tier in (shared, private):
        if said := closed(tier):
            hint = "Name a directory of your own in HPCC_CACHE_DIR; `hpcc config` shows where the name comes from."
            raise CacheError(f"cannot look into the cache {tier.root}: {said}", hint=hint)
    return shared, private


def tier_kinds(settings: "Settings") -> tuple[str, ...]:
    """What each of the tiers is."""
    return (*("library" for _ in settings.library_path), "shared", "private")


def chosen_kinds(arguments: Arguments) -> tuple[str, ...]:
    from hpcc.cache.contents import KINDS

    wanted = (arguments.type or "all").split(",")
    unknown = [kind for kind in wanted if kind not in (*KINDS, "all")]
    if unknown:
        raise UsageError(f"there is no type {unknown[0]!r}", hint=f"Types: {', '.join(KINDS)}, all.")
    return KINDS if "all" in wanted else tuple(wanted)


def chosen_days(arguments: Arguments) -> float:
    if arguments.days is None:
        return 0.0
    if not arguments.days.isdecimal():
        raise UsageError(f"--days {arguments.days!r} is no number of days")
    return float(arguments.days)


def is_named(item: "Item", name: str) -> bool:
    """Whether `name` is the object's, or how its name begins."""
    return item.name == name or (len(name) >= SHORTEST and (item.name.startswith(name) or _bare(item).startswith(name)))


def short_name(item: "Item") -> str:
    """Enough of the name to tell it from others."""
    return _bare(item)[:12]


def _bare(item: "Item") -> str:
    return item.name.removeprefix("sha256-")  # of a pack


def image_of(tier: "Cache", item: "Item") -> str:
    """The reference of a cached SIF; "" where it does not say, and of the rest."""
    from hpcc.cache.needs import mark_of

    mark = mark_of(tier, item) if item.kind == "sif" else None
    return mark.reference if mark is not None else ""


def find_key(uri: str) -> "tuple[Cache, str]":
    """Which cached image `uri` names, an image or a key as `cache list -v` shows it, and in which of the user's caches.

    ImageNotFound where it is in neither; nobody is asked. UsageError for a key that begins like another.
    """
    tiers = own_tiers()
    if uri.startswith("docker://"):
        return _find_image(uri, tiers)
    from hpcc.cache.contents import contents

    found = {
        (tier.root, item.key): tier
        for tier in tiers
        for item in contents(tier)
        if item.kind == "sif" and len(uri) >= SHORTEST and item.key.startswith(uri)
    }
    if len({key for _, key in found}) > 1:
        raise UsageError(f"{uri} could be several images", hint="Give more of the key: `hpcc cache list --json`.")
    for (_, key), tier in found.items():
        return tier, key
    hint = "`hpcc cache list -v` shows keys. An image is written docker://NAME."
    raise ImageNotFound(f"the cache has no image with the key {uri}", hint=hint)


def _find_image(uri: str, own: "Iterable[Cache]") -> "tuple[Cache, str]":
    import os

    from hpcc.lookup import Wanted, choose_cached, known_digests, open_cached, origin_of, tiers
    from hpcc.settings import Settings

    settings = Settings.from_environ()
    wanted, caches = Wanted.parse(uri, settings), tiers(settings)
    library = ""
    for known in known_digests(wanted.reference, caches, settings, stale=True):
        chosen = choose_cached(caches, known.digest, wanted)
        image = chosen and open_cached(caches, origin_of(wanted.reference, chosen, wanted.platform, settings), uri)
        if not image:
            continue
        os.close(image.rootfs.fd)
        for tier in own:
            if tier.root == image.cache:
                return tier, image.key
        library = image.cache
    if library:
        raise ImageNotFound(f"{uri} is in the library {library}", hint="hpcc removes nothing there.")
    raise ImageNotFound(f"{uri} is not in the cache", hint=f"Have it there first: hpcc pull {uri}")


def user_name(uid: int | None) -> str:
    """The user's name; the number of one whom this host does not know."""
    import pwd

    if uid is None:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def pins_text(pins: "Iterable[Pin]") -> str:
    return ", ".join(f"{user_name(pin.uid)} ({pin.note})" if pin.note else user_name(pin.uid) for pin in pins)


def size_text(amount: int) -> str:
    value = float(amount)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
