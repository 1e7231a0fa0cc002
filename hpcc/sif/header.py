"""The global header: the first 128 bytes of a SIF, little-endian, packed.

```
 0 launch 32 bytes    32 magic "SIF_MAGIC\\0"   42 version "01\\0"     45 architecture 3 bytes
48 uuid 16 bytes      64 created i64           72 modified i64
80 free descriptors   88 all descriptors       96 offset of the descriptors   104 their bytes
112 offset of data   120 bytes of data                                        i64 each
```
"""

import struct

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.records import NamedTuple

SIZE = 128
MAGIC = b"SIF_MAGIC\0"
VERSION = b"01\0"
LAUNCH = b"#!/usr/bin/env run-singularity\n"
"""What makes an executable SIF run."""

ZERO_TIME = -62135596800
"""Go's zero time, 0001-01-01: what the reference library writes in place of a clock."""

ARCHITECTURES = (
    "unknown", "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le",
    "s390x", "riscv64", "loong64",
)  # fmt: skip
"""Go's names, in the order of SIF's codes: b"00\\0", b"01\\0", …"""

_LAYOUT = struct.Struct("<32s10s3s3s16s8q")


class Header(NamedTuple):
    """The header's fields; `launch` without its NULs, `arch` by name, times in seconds since 1970."""

    launch: bytes = LAUNCH
    arch: str = "unknown"
    uuid: bytes = bytes(16)
    created: int = ZERO_TIME
    modified: int = ZERO_TIME
    free: int = 0
    total: int = 0
    descriptors_offset: int = 0
    descriptors_size: int = 0
    data_offset: int = 0
    data_size: int = 0

    def encode(self) -> bytes:
        """The 128 bytes."""
        return _LAYOUT.pack(self.launch, MAGIC, VERSION, encode_arch(self.arch), self.uuid, *self[3:])

    @classmethod
    def parse(cls, data: bytes) -> "Header":
        """InvalidImage for anything but a SIF's first bytes, UnsupportedImage for another version."""
        if len(data) < SIZE or data[32:42] != MAGIC:
            raise InvalidImage("not a SIF: it does not begin with a SIF header")
        launch, _, version, arch, uuid, *numbers = _LAYOUT.unpack_from(data)
        if version != VERSION:
            raise UnsupportedImage(f"SIF of version {version!r}; hpcc reads version 01")
        return cls(launch.rstrip(b"\0"), parse_arch(arch), uuid, *numbers)


def changed(raw: bytes, *, modified: int, free: int, data_size: int, arch: bytes = b"") -> bytes:
    """A header's 128 bytes with these fields new, `arch` by its code and "" to keep it.

    All others stay as they are on disk, so that an edit does not lose a code which hpcc does not know.
    """
    launch, magic, version, old, uuid, created, _, _, *rest, _ = _LAYOUT.unpack(raw)
    return _LAYOUT.pack(launch, magic, version, arch or old, uuid, created, modified, free, *rest, data_size)


def encode_arch(name: str) -> bytes:
    """The 3 bytes of an architecture. UnsupportedImage for one that SIF does not know."""
    try:
        return b"%02d\0" % ARCHITECTURES.index(name)
    except ValueError:
        raise UnsupportedImage(f"SIF has no code for the architecture {name!r}") from None


def parse_arch(code: bytes) -> str:
    """The name of 3 bytes of architecture, "unknown" for a code that SIF does not define."""
    digits = code[:2]
    if digits.isdigit() and int(digits) < len(ARCHITECTURES):
        return ARCHITECTURES[int(digits)]
    return ARCHITECTURES[0]
