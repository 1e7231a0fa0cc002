"""Reading a SIF: two reads, the header and the table of descriptors."""

from __future__ import annotations

from hpcc.errors import InvalidImage, Truncated, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.sif import descriptor, header
from hpcc.sif.descriptor import PART_OVERLAY, PART_PRIMARY_SYSTEM, Descriptor
from hpcc.sif.header import Header

if TYPE_CHECKING:
    from collections.abc import Callable


MOST_DESCRIPTORS = 4096  # the reference library writes 48
AGAIN = "Remove it, and pull or copy the image again; a workflow engine whose image it is then pulls it by itself."


class Sif(NamedTuple):
    """The header and the descriptors in use, in the table's order."""

    header: Header
    descriptors: tuple[Descriptor, ...]

    def primary(self) -> Descriptor:
        """The partition that holds the container's root. InvalidImage when there is none, or several."""
        found = [each for each in self.descriptors if (p := each.partition) and p.part == PART_PRIMARY_SYSTEM]
        if len(found) != 1:
            raise InvalidImage(
                f"the SIF has {len(found) or 'no'} primary system partition{'s' if len(found) > 1 else ''}",
                hint="`hpcc sif list` shows what it holds",
            )
        return found[0]

    def overlays(self) -> tuple[Descriptor, ...]:
        """The partitions that go over the root, lowest first."""
        return tuple(each for each in self.descriptors if (p := each.partition) and p.part == PART_OVERLAY)

    def by_id(self, id: int) -> Descriptor:
        """UsageError when there is no such object."""
        for each in self.descriptors:
            if each.id == id:
                return each
        ids = ", ".join(str(each.id) for each in self.descriptors[:48])
        raise UsageError(f"the SIF has no object {id}", hint=f"It has {ids or 'none'}. `hpcc sif list` shows them.")

    def find(self, type: int, name: bytes | str | None = None) -> Descriptor | None:
        """The first object of a type, and of a name where one is given; None when there is none."""
        wanted = name.encode() if isinstance(name, str) else name
        for each in self.descriptors:
            if each.type == type and (wanted is None or each.name == wanted):
                return each
        return None


def load(read_at: Callable[[int, int], bytes], size: int) -> Sif:
    """The SIF of `size` bytes that `read_at(offset, length)` reads; fewer bytes come at its end only.

    InvalidImage unless every object lies in the file, Truncated where that ends before one does, and ids are unique.
    What the objects hold is not looked at.
    """
    raw = read_at(0, header.SIZE)
    if len(raw) < header.SIZE and header.MAGIC.startswith(raw[32:42] or b"-"):
        raise _cut_short(f"{size} bytes do not hold its header")
    head = Header.parse(raw)
    total, start = head.total, head.descriptors_offset
    if not 0 <= total <= MOST_DESCRIPTORS:
        raise InvalidImage(f"the SIF has {total} descriptors; at most {MOST_DESCRIPTORS} are allowed")
    length = total * descriptor.SIZE
    if not header.SIZE <= start <= size - length:
        raise _cut_short(f"its descriptors do not lie in its {size} bytes")
    data = read_at(start, length)
    if len(data) < length:
        raise _cut_short("its descriptors are not complete")
    found: list[Descriptor] = []
    ids = set()
    for at in range(0, length, descriptor.SIZE):
        each = descriptor.parse(data, at)
        if each is None:
            continue  # free, as most are
        if each.offset < 0 or each.size < 0 or each.offset + each.size > size:
            raise _cut_short(f"object {each.id} ({each.size} bytes at {each.offset}) does not lie in its {size} bytes")
        if not each.id or each.id in ids:
            raise InvalidImage(f"the SIF has two objects with id {each.id}, or one without an id")
        ids.add(each.id)
        found.append(each)
    return Sif(head, tuple(found))


def _cut_short(how: str) -> Truncated:
    return Truncated(f"the SIF is damaged or cut short: {how}", hint=AGAIN)
