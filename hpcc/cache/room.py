"""Whether a pull has a chance to fit, before anything of it is fetched."""

import os

from hpcc.errors import CacheError

# What is surely needed, in shares of the compressed layers: a layer as it comes (1), converted (at least 0.8, since
# SquashFS compresses about as well as what registries have), and the SIF of all layers (as much again).
PACK, SIF = 0.8, 0.8


def check_room(root: str, missing: int, total: int) -> None:
    """CacheError where the filesystem of `root` has surely too little room: what is needed where, and what is there.

    missing: bytes of the layers that are to be fetched or converted; total: of all layers. A filesystem that does not
    tell, or a quota, is found out by the writes themselves.
    """
    needed = int(missing * (1 + PACK) + total * SIF)
    try:
        place = root
        while not os.path.exists(place):
            place = os.path.dirname(place)
        found = os.statvfs(place)
    except OSError:
        return
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and free < needed:
        raise CacheError(
            f"{root} has {_text(free)} free, and this image needs at least {_text(needed)} there: "
            f"{_text(missing)} of layers as they come, the same converted, and the image",
            hint="`hpcc cache gc` or `hpcc cache clean` make room; HPCC_CACHE_DIR names another place.",
        )


def _text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
