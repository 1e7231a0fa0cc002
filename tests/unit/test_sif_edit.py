"""Adding to a SIF, deleting from it and choosing its primary partition, byte for byte as the reference library does."""

import hashlib
import io
import struct
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcc.errors import HpccError, InvalidImage, UnsupportedImage, UsageError
from hpcc.sif import descriptor as d
from hpcc.sif import edit
from hpcc.sif.create import DATA_OFFSET, Object, layout
from hpcc.sif.extra import details, sbom_extra, signature_extra
from hpcc.sif.header import ZERO_TIME, Header
from hpcc.sif.load import Sif, load
from hpcc.sif.table import signatures_over
from tests.conftest import SHARED_DATA

GOLDENS = SHARED_DATA / "sif" / "create"
IMAGES = SHARED_DATA / "sif" / "images"
NOON = 946702800
PRIMARY, SYSTEM = (d.partition_extra(d.FS_SQUASHFS, part, "386") for part in (d.PART_PRIMARY_SYSTEM, d.PART_SYSTEM))


def new(*contents: tuple[Object, bytes], uuid: str = "", time: int = ZERO_TIME) -> io.BytesIO:
    """A SIF without a launch script, as the reference library makes one unless it is told another."""
    head = Header.parse(layout([], arch="unknown", launch=b"").head)
    head = head._replace(uuid=UUID(uuid).bytes if uuid else bytes(16), created=time, modified=time)
    file = io.BytesIO(head.encode().ljust(DATA_OFFSET, b"\0"))
    for each, content in contents:
        edit.add(file, each, io.BytesIO(content))
    return file


def generic(**fields: object) -> Object:
    return Object(d.GENERIC, "", 0, **fields)  # type: ignore[arg-type]


def loaded(file: io.BytesIO) -> Sif:
    data = file.getvalue()
    return load(lambda offset, length: data[offset : offset + length], len(data))


def objects(file: io.BytesIO) -> dict[int, bytes]:
    return {each.id: file.getvalue()[each.offset : each.offset + each.size] for each in loaded(file).descriptors}


# -- the reference library's files ------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_added_to_a_sif_with_clock_and_id_but_without_a_clock() -> None:
    file = new(uuid="de170c43-36ab-44a8-bca9-1ea1a070a274", time=NOON)
    edit.add(file, generic(), io.BytesIO(b"\xfa\xce"), now=ZERO_TIME)
    assert file.getvalue() == (GOLDENS / "TestAddObject-Deterministic.golden").read_bytes()


@pytest.mark.shared_data
def test_added_at_an_alignment() -> None:
    file = new((generic(), b"\xfa\xce"))
    edit.add(file, Object(d.PARTITION, "", 0, PRIMARY, 128), io.BytesIO(b"\xfe\xed"), now=NOON)
    assert file.getvalue() == (GOLDENS / "TestAddObject-NotEmptyAligned.golden").read_bytes()


@pytest.mark.shared_data
def test_the_first_of_two_deleted_and_compacted() -> None:
    file = new((generic(), b"\xfa\xce"), (generic(), b"\xfe\xed"))
    edit.delete(file, 1, compact=True, now=NOON)
    assert file.getvalue() == (GOLDENS / "TestDeleteObject-OneCompact.golden").read_bytes()


@pytest.mark.shared_data
@pytest.mark.parametrize(("golden", "count"), [("OneDescriptor", 1), ("TwoDescriptorsAligned", 2)])
def test_added_to_an_empty_sif_is_as_if_created_with_it(golden: str, count: int) -> None:
    contents = [(generic(), b"\xfa\xce"), (Object(d.PARTITION, "", 0, PRIMARY, 4), b"\xfe\xed")]
    assert new(*contents[:count]).getvalue() == (GOLDENS / f"TestCreateContainer-{golden}.golden").read_bytes()


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["one-group", "one-group-signed-dsse", "one-group-signed-legacy", "one-object-time"])
def test_added_and_deleted_again_is_as_before_but_for_the_time(name: str) -> None:
    before = (IMAGES / f"{name}.sif").read_bytes()
    file = io.BytesIO(before)
    made = edit.add(file, generic(), io.BytesIO(b"more"), now=NOON)
    assert file.getvalue()[made.offset :] == b"more"
    edit.delete(file, made.id, compact=True, now=NOON)
    after = bytearray(file.getvalue())
    after[72:80] = before[72:80]
    assert bytes(after) == before


# -- adding ------------------------------------------------------------------------------------------------------------


def test_what_an_object_is() -> None:
    file = new((Object(d.LABELS, "ünï", 99, group=0, link=7), b"{}"), uuid="de170c43-36ab-44a8-bca9-1ea1a070a274")
    made = edit.add(file, Object(d.SBOM, "", 0, sbom_extra(4)), io.BytesIO(b"spdx"), now=NOON)
    first, second = loaded(file).descriptors
    assert second == made and (made.id, made.created, made.modified) == (2, NOON, NOON)
    assert details(made) == {"Format": "spdx-json"}
    assert (first.name.decode(), first.size, first.group_number, first.linked_object) == ("ünï", 2, 0, 7)
    assert loaded(file).header.modified == NOON and loaded(file).header.free == 46


def test_an_oci_blob_gets_its_digest() -> None:
    file = new((Object(d.OCI_BLOB, "", 0), b"hello"), (Object(d.OCI_ROOT_INDEX, "", 0, b"sha512:x"), b"hello"))
    first, second = loaded(file).descriptors
    assert details(first) == {"Digest": f"sha256:{hashlib.sha256(b'hello').hexdigest()}"}
    assert details(second) == {"Digest": "sha512:x"}


def test_no_room_and_a_second_primary_partition() -> None:
    file = new((Object(d.PARTITION, "", 0, PRIMARY), b""), *[(generic(), b"x")] * 46)
    full = file.getvalue()
    with pytest.raises(UsageError, match="object 1"):
        edit.add(file, Object(d.PARTITION, "", 0, PRIMARY), io.BytesIO(b"y"))
    edit.add(file, generic(), io.BytesIO(b"z"))
    assert len(full) + 1 == len(file.getvalue())
    with pytest.raises(UnsupportedImage, match="48 objects"):
        edit.add(file, generic(), io.BytesIO(b"y"))


def test_an_empty_object_lies_in_the_file() -> None:
    file = new((Object(d.PARTITION, "", 0, SYSTEM), b""))
    assert loaded(file).descriptors[0].offset == len(file.getvalue()) == 32768


def test_a_freed_slot_is_taken_but_no_id_twice() -> None:
    file = new(*[(generic(), bytes([number])) for number in range(3)])
    edit.delete(file, 2)
    struct.pack_into(
        "<I", file.getbuffer(), d.SIZE * 2 + 4096 + 5, 2
    )  # as another program might leave it: slot 3, id 2
    assert edit.add(file, generic(), io.BytesIO(b"new")).id == 3
    assert objects(file) == {1: b"\0", 2: b"\2", 3: b"new"}


# -- deleting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("id", [1, 2])
def test_delete(id: int, zero: bool, compact: bool) -> None:
    file = new((generic(), b"first"), (Object(d.PARTITION, "", 0, PRIMARY), b"second"))
    edit.delete(file, id, zero=zero, compact=compact)
    data, left = file.getvalue(), {1: b"first", 2: b"second"}
    gone = left.pop(id)
    assert objects(file) == left
    assert loaded(file).header.arch == ("386" if id == 1 else "unknown")
    assert (gone in data) == (not zero and not (compact and id == 2))
    assert len(data) == (DATA_OFFSET + 5 if compact and id == 2 else 32768 + 6)
    assert loaded(file).header.data_size == len(data) - DATA_OFFSET


def test_what_was_deleted_at_the_end_is_written_over() -> None:
    file = new((generic(), b"abc"), (generic(), b"defgh"))
    edit.delete(file, 2)
    edit.add(file, generic(), io.BytesIO(b"ijk"))
    assert file.getvalue()[DATA_OFFSET:] == b"abcijkgh" and loaded(file).header.data_size == 6


def test_no_such_object() -> None:
    file = new((generic(), b"x"))
    before = file.getvalue()
    for change in (edit.delete, edit.set_primary):
        with pytest.raises(UsageError, match="no object 7"):
            change(file, 7)
    assert file.getvalue() == before


# -- the primary partition ---------------------------------------------------------------------------------------------


def test_set_primary() -> None:
    strange = PRIMARY[:8] + b"77\0"  # an architecture of years to come
    file = new(
        (Object(d.PARTITION, "", 0, SYSTEM), b"1"), (Object(d.PARTITION, "", 0, strange), b"2"), (generic(), b"3")
    )
    before = file.getvalue()
    edit.set_primary(file, 2)
    assert file.getvalue() == before
    edit.set_primary(file, 1)
    assert loaded(file).primary().id == 1 and loaded(file).header.arch == "386"
    assert loaded(file).descriptors[1].extra[4:11] == struct.pack("<i", d.PART_SYSTEM) + b"77\0"
    edit.set_primary(file, 2)
    assert file.getvalue() == before and before[45:48] == b"77\0"
    with pytest.raises(UsageError, match="object 3 is no partition"):
        edit.set_primary(file, 3)
    data = d.partition_extra(d.FS_EXT3, d.PART_DATA, "386")
    assert edit.add(file, Object(d.PARTITION, "", 0, data), io.BytesIO(b"4")).id == 4
    with pytest.raises(UsageError, match="not of a system"):
        edit.set_primary(file, 4)


def test_the_header_keeps_what_is_not_known() -> None:
    file = new((generic(), b"x"))
    file.getbuffer()[45:48] = b"99\0"
    edit.add(file, generic(), io.BytesIO(b"y"))
    assert file.getvalue()[45:48] == b"99\0"


def test_signatures_that_a_change_breaks() -> None:
    signed = [
        (Object(d.PARTITION, "", 0, PRIMARY), b"1"),
        (generic(group=2), b"2"),
        (Object(d.SIGNATURE, "", 0, signature_extra(1, b"\1" * 20), group=0, link=d.GROUP | 1), b"3"),
        (Object(d.SIGNATURE, "", 0, signature_extra(1, b""), group=0, link=2), b"4"),
    ]
    sif = loaded(new(*signed, (generic(group=0), b"5")))
    assert [signatures_over(sif, each) for each in sif.descriptors] == [(3,), (4,), (), (), ()]
    assert details(sif.descriptors[2]) == {"Hash Type": "SHA-256", "Entity": "01" * 20}
    assert details(sif.descriptors[3]) == {"Hash Type": "SHA-256"}


# -- hostile files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value"),
    [(112, 0), (112, -1), (112, 100), (112, 2**62), (4096 + 17, 0), (4096 + 17, 4100), (88, 1 << 40), (96, -1)],
)
def test_no_edit_writes_over_the_table(at: int, value: int) -> None:
    file = new((generic(), b"x" * 50))
    struct.pack_into("<q", file.getbuffer(), at, value)
    before = file.getvalue()
    for change in (
        lambda: edit.add(file, generic(), io.BytesIO(b"y")),
        lambda: edit.delete(file, 1, zero=True, compact=True),
    ):
        with pytest.raises(InvalidImage):
            change()
    assert file.getvalue() == before


@pytest.mark.parametrize("at", [80, 120])
@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1])
def test_numbers_that_count_for_nothing(at: int, value: int) -> None:
    file = new((generic(), b"x"))
    struct.pack_into("<q", file.getbuffer(), at, value)
    edit.add(file, generic(), io.BytesIO(b"y"))
    edit.delete(file, 1)
    assert objects(file) == {2: b"y"} and loaded(file).header.free == 47


# -- any sequence of edits ---------------------------------------------------------------------------------------------


class Held(NamedTuple):
    content: bytes
    part: int  # of a partition, 0 for another object


class Edits(RuleBasedStateMachine):
    """A SIF, and a dictionary that is edited alike."""

    def __init__(self) -> None:
        super().__init__()
        self.file, self.held = new(), dict[int, Held]()

    def _primary(self) -> int | None:
        return next((id for id, each in self.held.items() if each.part == d.PART_PRIMARY_SYSTEM), None)

    @rule(content=st.binary(max_size=300), part=st.integers(0, 4), alignment=st.sampled_from([0, 1, 3, 64, 512]))
    def add(self, content: bytes, part: int, alignment: int) -> None:
        extra = d.partition_extra(d.FS_RAW, part, "amd64") if part else b""
        what = Object(d.PARTITION if part else d.GENERIC, "n", 0, extra, alignment)
        if len(self.held) == 48 or (part == d.PART_PRIMARY_SYSTEM and self._primary()):
            with pytest.raises(HpccError):
                edit.add(self.file, what, io.BytesIO(content))
            return
        made = edit.add(self.file, what, io.BytesIO(content))
        assert made.id == min(set(range(1, 49)) - set(self.held))
        assert made.offset % (alignment or (4096 if part else 1)) == 0
        self.held[made.id] = Held(content, part)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), zero=st.booleans(), compact=st.booleans())
    def delete(self, data: st.DataObject, zero: bool, compact: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.held)))
        edit.delete(self.file, id, zero=zero, compact=compact)
        del self.held[id]
        if compact:
            end = max([DATA_OFFSET, *(each.offset + each.size for each in loaded(self.file).descriptors)])
            assert len(self.file.getvalue()) == end

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def set_primary(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.held)))
        if self.held[id].part not in (d.PART_SYSTEM, d.PART_PRIMARY_SYSTEM):
            with pytest.raises(UsageError):
                edit.set_primary(self.file, id)
            return
        edit.set_primary(self.file, id)
        if (old := self._primary()) is not None:
            self.held[old] = self.held[old]._replace(part=d.PART_SYSTEM)
        self.held[id] = self.held[id]._replace(part=d.PART_PRIMARY_SYSTEM)

    @invariant()
    def holds_the_same(self) -> None:
        sif = loaded(self.file)
        assert objects(self.file) == {id: each.content for id, each in self.held.items()}
        assert {each.id: p.part if (p := each.partition) else 0 for each in sif.descriptors} == {
            id: each.part for id, each in self.held.items()
        }
        assert sif.header.free == 48 - len(self.held)
        assert sif.header.arch == ("amd64" if self._primary() else "unknown")
        assert sif.header.data_offset + sif.header.data_size <= len(self.file.getvalue())
        spans = sorted((each.offset, each.offset + each.size) for each in sif.descriptors if each.size)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


TestEdits = Edits.TestCase
TestEdits.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
