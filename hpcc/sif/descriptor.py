"""Descriptors: what each object of a SIF is and where it lies; 585 bytes, little-endian, packed.

```
 0 type i32   4 used u8   5 id u32   9 group u32  13 link u32
17 offset i64   25 size   33 size with padding   41 created   49 modified   57 uid   65 gid   i64 each
73 name 128 bytes       201 extra 384 bytes
```

A group is n | 0xf0000000, or that bit alone for an object in none. A link names an id, or a group.
The size with padding counts the bytes before the object too, from the end of the one before it.
"""

import struct

from hpcc.errors import InvalidImage
from hpcc.records import NamedTuple
from hpcc.sif.header import ZERO_TIME, encode_arch, parse_arch

SIZE = 585
NAME_SIZE, EXTRA_SIZE = 128, 384
GROUP = 0xF0000000

(
    DEFFILE, ENVVAR, LABELS, PARTITION, SIGNATURE, GENERIC_JSON, GENERIC, CRYPTO_MESSAGE, SBOM, OCI_ROOT_INDEX, OCI_BLOB
) = range(0x4001, 0x400C)  # fmt: skip
"""Types of object."""

FS_SQUASHFS, FS_EXT3, FS_ARCHIVE, FS_RAW, FS_ENCRYPTED_SQUASHFS, FS_GOCRYPTFS = range(1, 7)
"""File systems of a partition."""

PART_SYSTEM, PART_PRIMARY_SYSTEM, PART_DATA, PART_OVERLAY = range(1, 5)
"""What a partition is for; the primary one is the container's root."""

_LAYOUT = struct.Struct("<i?IIIqqqqqqq128s384s")
_PARTITION = struct.Struct("<ii3s")


class Partition(NamedTuple):
    """What a partition's `extra` says."""

    fs: int
    part: int
    arch: str


def partition_extra(fs: int, part: int, arch: str) -> bytes:
    """A partition's `extra`; the descriptor fills it up with NULs. UnsupportedImage for an unknown arch."""
    return _PARTITION.pack(fs, part, encode_arch(arch))


class Descriptor(NamedTuple):
    """One descriptor in use; `group` and `link` as on disk, `name` without its trailing NULs.

    `extra` may be short when one is made; parsed, it has all its 384 bytes, since what lies
    in it may end with NULs.
    """

    type: int
    id: int
    group: int
    link: int
    offset: int
    size: int
    padded: int
    created: int = ZERO_TIME
    modified: int = ZERO_TIME
    uid: int = 0
    gid: int = 0
    name: bytes = b""
    extra: bytes = b""

    def encode(self) -> bytes:
        """The 585 bytes. ValueError for a name or extra that is too long."""
        if len(self.name) > NAME_SIZE or len(self.extra) > EXTRA_SIZE:
            raise ValueError(f"SIF object {self.name!r}: name or extra is too long")
        return _LAYOUT.pack(self.type, True, *self[1:])

    @property
    def group_number(self) -> int:
        """The object's group, 0 for none."""
        return self.group & ~GROUP

    @property
    def linked_object(self) -> int:
        """The id that the object is linked to, 0 for none."""
        return 0 if self.link & GROUP == GROUP else self.link

    @property
    def linked_group(self) -> int:
        """The group that the object is linked to, 0 for none."""
        return self.link & ~GROUP if self.link & GROUP == GROUP else 0

    @property
    def partition(self) -> Partition | None:
        """A partition's extra, None for other types."""
        if self.type != PARTITION:
            return None
        fs, part, arch = _PARTITION.unpack(self.extra[: _PARTITION.size].ljust(_PARTITION.size, b"\0"))
        return Partition(fs, part, parse_arch(arch))


def parse(data: bytes, at: int = 0) -> Descriptor | None:
    """The descriptor at byte `at`, None when it is free. InvalidImage for fewer than 585 bytes."""
    if at + SIZE > len(data):
        raise InvalidImage("the SIF's descriptors are cut short", hint="pull or copy the image again")
    if not data[at + 4]:
        return None
    fields = _LAYOUT.unpack_from(data, at)
    return Descriptor._make((fields[0], *fields[2:12], fields[12].rstrip(b"\0"), fields[13]))
