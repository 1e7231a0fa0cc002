"""The id table: u32 each, the uids and gids of the image; inodes hold indexes into it.

The superblock counts them in 16 bits and zero is refused by the kernel, so that 65,535 fit.
"""

import struct
from collections.abc import Iterable

from hpcc.errors import InvalidImage, UnsupportedImage

MOST = 65535
SIZE = 4


def collect_ids(owners: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The sorted distinct ids of (uid, gid) pairs. UnsupportedImage when the table cannot hold them."""
    ids = tuple(sorted({number for pair in owners for number in pair}))
    if len(ids) > MOST:
        raise UnsupportedImage(
            f"the image has {len(ids)} different owners and groups; SquashFS holds {MOST}",
            hint="build the image with fewer owners (chown)",
        )
    if ids and (ids[0] < 0 or ids[-1] > 0xFFFFFFFF):
        raise InvalidImage(f"the image has a file whose owner is {ids[0] if ids[0] < 0 else ids[-1]}")
    return ids


def encode_ids(ids: tuple[int, ...]) -> bytes:
    """The records of the table."""
    return struct.pack(f"<{len(ids)}I", *ids)


def parse_ids(data: bytes) -> tuple[int, ...]:
    """The ids in the table's order."""
    return struct.unpack(f"<{len(data) // SIZE}I", data)
