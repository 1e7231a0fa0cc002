"""The fragment table: where each fragment block (the tails of many files, joined) lies.

```
record, 16 bytes    start u64 | size word u32, bit 24 set = stored uncompressed | unused u32
```
"""

import struct
from collections.abc import Iterable

from hpcc.records import NamedTuple

SIZE = 16

_LAYOUT = struct.Struct("<QII")


class Fragment(NamedTuple):
    """One fragment block: its offset from the start of the image, and its size word."""

    start: int
    word: int


def encode_fragments(fragments: Iterable[Fragment]) -> bytes:
    """The records of the table."""
    pack = _LAYOUT.pack
    return b"".join([pack(start, word, 0) for start, word in fragments])


def parse_fragment(record: bytes) -> Fragment:
    """One record of SIZE bytes."""
    start, word, _ = _LAYOUT.unpack(record)
    return Fragment(start, word)
