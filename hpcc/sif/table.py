"""Header and table of descriptors as one value, and what it becomes when an object is added, deleted or made primary.

As the reference library does it (sylabs/sif 2.20 and newer, pkg/sif): an object is laid down behind the last one that
is in use, so that what was deleted at the end is written over; its id is its slot's number; a deleted slot is NULs.
"""

from collections.abc import Callable, Iterator

from hpcc.errors import InvalidImage, UnsupportedImage, UsageError
from hpcc.records import NamedTuple
from hpcc.sif import descriptor, header
from hpcc.sif.create import Object, describe
from hpcc.sif.descriptor import PART_PRIMARY_SYSTEM, PART_SYSTEM, PARTITION, SIGNATURE, Descriptor
from hpcc.sif.header import ZERO_TIME, Header
from hpcc.sif.load import Sif, load

_GAP = 4096  # bytes; older writers let data begin at 32768, in a file that may end with the table at 32176


class Table(NamedTuple):
    """The header's bytes and the descriptors by slot, None for a free one."""

    head: bytes
    slots: tuple[Descriptor | None, ...]

    @property
    def sif(self) -> Sif:
        return Sif(Header.parse(self.head), tuple(each for each in self.slots if each is not None))

    @property
    def end(self) -> int:
        """The byte behind the last object; where data begins when there is none."""
        sif = self.sif
        return max([sif.header.data_offset, *(each.offset + each.size for each in sif.descriptors)])

    def writes(self, before: "Table") -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all that is not as it was `before`, the header last."""
        start = Header.parse(self.head).descriptors_offset
        for place, (old, new) in enumerate(zip(before.slots, self.slots, strict=True)):
            if old != new:
                yield start + place * descriptor.SIZE, new.encode() if new else bytes(descriptor.SIZE)
        if self.head != before.head:
            yield 0, self.head


def read(read_at: Callable[[int, int], bytes], size: int) -> Table:
    """The table of a SIF; parameters and errors as of `load`.

    InvalidImage too for what can be read, but not be edited without writing over the table.
    """
    sif = load(read_at, size)
    start, length = sif.header.descriptors_offset, sif.header.total * descriptor.SIZE
    if not start + length <= sif.header.data_offset <= max(size, start + length + _GAP):
        raise InvalidImage(f"the SIF says that its data begin at byte {sif.header.data_offset}, where they cannot")
    for each in sif.descriptors:
        if each.size and each.offset < start + length:
            raise InvalidImage(f"object {each.id} of the SIF lies over its table of descriptors")
    data = read_at(start, length)
    slots = tuple(descriptor.parse(data, at) for at in range(0, length, descriptor.SIZE))
    return Table(read_at(0, header.SIZE), slots)


def add(table: Table, new: Object, now: int = ZERO_TIME) -> tuple[Table, Descriptor]:
    """The table with the object, and its descriptor. `now`: the clock, of which a deterministic SIF takes no note.

    UnsupportedImage when no descriptor is free, UsageError for a second primary partition, ValueError as of `describe`.
    """
    sif, free = table.sif, [place for place, each in enumerate(table.slots) if each is None]
    if not free:
        raise UnsupportedImage(
            f"the SIF has {len(table.slots)} objects, and room for no more",
            hint="Delete one first: `hpcc sif del ID FILE`.",
        )
    taken = {each.id for each in sif.descriptors}
    id = next(number for number in (free[0] + 1, *range(1, len(table.slots) + 1)) if number not in taken)
    made = describe(new, id, table.end, _time(sif.header, now))
    made = made._replace(extra=made.extra.ljust(descriptor.EXTRA_SIZE, b"\0"))
    arch = b""
    if _is_primary(made):
        for each in sif.descriptors:
            if _is_primary(each):
                raise UsageError(
                    f"the SIF has a primary system partition already, object {each.id}",
                    hint="Add this one as a system partition (--parttype 1), then make it primary: `hpcc sif setprim`.",
                )
        arch = made.extra[8:11]
    after = table._replace(slots=_with(table.slots, {free[0]: made}))
    return _finished(after, now, arch=arch, data_size=made.offset + made.size - sif.header.data_offset), made


def delete(table: Table, id: int, now: int = ZERO_TIME, *, compact: bool = False) -> Table:
    """The table without an object. `compact`: data end with the last one that is left. UsageError for an unknown id."""
    gone = table.sif.by_id(id)
    after = table._replace(slots=_with(table.slots, {table.slots.index(gone): None}))
    start = table.sif.header.data_offset
    size = after.end - start if compact else table.sif.header.data_size
    return _finished(after, now, arch=header.encode_arch("unknown") if _is_primary(gone) else b"", data_size=size)


def set_primary(table: Table, id: int, now: int = ZERO_TIME) -> Table:
    """The table with the partition `id` as the primary one, and a former one as a system partition.

    The same table when it is that already. UsageError unless it is a system partition.
    """
    chosen = table.sif.by_id(id)
    if chosen.partition is None or chosen.partition.part not in (PART_SYSTEM, PART_PRIMARY_SYSTEM):
        what = "is no partition" if chosen.partition is None else "is a partition, but not of a system"
        raise UsageError(
            f"object {id} {what}", hint="`hpcc sif list` shows FS (…/System/…) for those that can be chosen."
        )
    if _is_primary(chosen):
        return table
    when = _time(table.sif.header, now)
    changed: dict[int, Descriptor | None] = {}
    for place, each in enumerate(table.slots):
        if each is not None and (each is chosen or _is_primary(each)):
            part = PART_PRIMARY_SYSTEM if each is chosen else PART_SYSTEM
            extra = (each.extra[:4] + part.to_bytes(4, "little") + each.extra[8:11]).ljust(descriptor.EXTRA_SIZE, b"\0")
            changed[place] = each._replace(extra=extra, modified=when)
    after = table._replace(slots=_with(table.slots, changed))
    return _finished(after, now, arch=chosen.extra[8:11], data_size=table.sif.header.data_size)


def signatures_over(sif: Sif, changed: Descriptor) -> tuple[int, ...]:
    """Ids of the signatures that do not hold any more once this object has come, gone or become another.

    They are those of the object and of its group; a signature itself is signed by none.
    """
    if changed.type == SIGNATURE:
        return ()
    return tuple(
        each.id
        for each in sif.descriptors
        if each.type == SIGNATURE
        and (each.linked_object == changed.id or 0 < each.linked_group == changed.group_number)
    )


def _is_primary(each: Descriptor) -> bool:
    return each.type == PARTITION and each.partition is not None and each.partition.part == PART_PRIMARY_SYSTEM


def _time(head: Header, now: int) -> int:
    deterministic = not any(head.uuid) and head.created == head.modified == ZERO_TIME
    return ZERO_TIME if deterministic else now


def _with(slots: tuple[Descriptor | None, ...], new: dict[int, Descriptor | None]) -> tuple[Descriptor | None, ...]:
    return tuple(new.get(place, each) for place, each in enumerate(slots))


def _finished(table: Table, now: int, *, arch: bytes, data_size: int) -> Table:
    """With the header that goes with the slots. Free ones are counted: a damaged SIF's own number may be anything."""
    free, when = table.slots.count(None), _time(table.sif.header, now)
    return table._replace(head=header.changed(table.head, modified=when, free=free, data_size=data_size, arch=arch))
