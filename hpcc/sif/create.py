"""Laying out a new SIF, byte for byte as the reference library does it with a nil uuid and no clock."""

from collections.abc import Sequence

from hpcc.errors import UnsupportedImage
from hpcc.records import NamedTuple
from hpcc.sif import descriptor, header
from hpcc.sif.descriptor import GROUP, PARTITION, Descriptor
from hpcc.sif.header import Header

DESCRIPTORS = 48
DESCRIPTORS_OFFSET = 4096
DATA_OFFSET = DESCRIPTORS_OFFSET + DESCRIPTORS * descriptor.SIZE  # 32176
PARTITION_ALIGNMENT = 4096


class Object(NamedTuple):
    """What a new SIF shall hold.

    type       a constant of descriptor.py
    name       at most 128 bytes; str is encoded as UTF-8
    size       bytes of the object
    extra      what its type keeps there: `partition_extra(…)` for a partition
    alignment  of its offset in the file; 0: what the type needs, 4096 for a partition, 1 for others
    group      the group it belongs to, 0 for none
    link       id of the object it is about, as descriptor.py has it; 0 for none
    """

    type: int
    name: str | bytes
    size: int
    extra: bytes = b""
    alignment: int = 0
    group: int = 1
    link: int = 0


class Layout(NamedTuple):
    """The bytes before the first object, where each object begins, and the size of the file."""

    head: bytes
    offsets: tuple[int, ...]
    end: int


def layout(objects: Sequence[Object], *, arch: str, launch: bytes = header.LAUNCH) -> Layout:
    """Header, descriptors and offsets of a new SIF; ids are 1, 2, … in the order given.

    `arch` is Go's name of the architecture of the primary partition, "unknown" where there is none.
    Offsets do not depend on the size of the last object: a caller that writes it as a stream lays
    out with 0, and again with its size. Between the objects lie NULs, which the caller writes.
    UnsupportedImage for more than 48 objects or an architecture that SIF does not know,
    ValueError for a name, extra or size that does not fit.
    """
    if len(objects) > DESCRIPTORS:
        raise UnsupportedImage(f"a SIF of {len(objects)} objects; it has room for {DESCRIPTORS}")
    end = DATA_OFFSET
    offsets, table = [], []
    for number, each in enumerate(objects, 1):
        made = describe(each, number, end)
        table.append(made.encode())
        offsets.append(made.offset)
        end = made.offset + made.size
    head = Header(
        launch=launch,
        arch=arch,
        free=DESCRIPTORS - len(objects),
        total=DESCRIPTORS,
        descriptors_offset=DESCRIPTORS_OFFSET,
        descriptors_size=DATA_OFFSET - DESCRIPTORS_OFFSET,
        data_offset=DATA_OFFSET,
        data_size=end - DATA_OFFSET,
    ).encode()
    out = head.ljust(DESCRIPTORS_OFFSET, b"\0") + b"".join(table)
    return Layout(out.ljust(DATA_OFFSET, b"\0"), tuple(offsets), end)


def describe(new: Object, id: int, end: int, when: int = header.ZERO_TIME) -> Descriptor:
    """The descriptor of an object that is laid down at the first fit from byte `end` on, made at `when`.

    ValueError for a negative size; what else does not fit is found when it is encoded.
    """
    if new.size < 0:
        raise ValueError(f"SIF object {new.name!r} of {new.size} bytes")
    alignment = new.alignment or (PARTITION_ALIGNMENT if new.type == PARTITION else 1)
    offset = -(-end // alignment) * alignment
    return Descriptor(
        type=new.type,
        id=id,
        group=new.group | GROUP,
        link=new.link,
        offset=offset,
        size=new.size,
        padded=offset + new.size - end,
        created=when,
        modified=when,
        name=new.name.encode() if isinstance(new.name, str) else new.name,
        extra=new.extra,
    )
