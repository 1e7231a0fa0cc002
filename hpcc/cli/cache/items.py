"""Objects of the cache as the command line names and shows them."""

import os
from typing import TYPE_CHECKING

from hpcc.cli.arguments import Arguments, Option
from hpcc.errors import HpccError, UsageError

if TYPE_CHECKING:
    from hpcc.cache.contents import Item
    from hpcc.cache.layout import Cache

TYPE_OPTION = Option(("-T", "--type"), "only these: sif, blob, pack, all; several by commas", "KIND")


def own_tiers() -> "tuple[Cache, ...]":
    """The caches that are this user's to write to."""
    from hpcc.lookup import tiers
    from hpcc.settings import Settings

    return tiers(Settings.from_environ())[-2:]


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
    if not arguments.days.isdigit():
        raise UsageError(f"--days {arguments.days!r} is no number of days")
    return float(arguments.days)


def is_named(item: "Item", name: str | None) -> bool:
    if name is None or item.name == name:
        return True
    if not name.startswith("docker://") or item.kind != "sif":
        return False
    from hpcc.oci.reference import Reference

    image, reference = image_of(item.path), Reference.parse(name)
    return image == reference.canonical if reference.digest else image.startswith(f"{reference.name}@")


def image_of(path: str) -> str:
    """The reference of a cached SIF, "" where it does not say."""
    from hpcc.local import open_local

    try:
        image = open_local(path)
    except HpccError:
        return ""
    os.close(image.rootfs.fd)
    return image.reference


def size_text(amount: int) -> str:
    value = float(amount)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
