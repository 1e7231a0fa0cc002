"""Loading SIFs, whole and damaged."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.errors import IntegrityError, InvalidImage, UnsupportedImage
from hpcc.sif import descriptor as d
from hpcc.sif.create import Object, layout
from hpcc.sif.header import ARCHITECTURES, encode_arch, parse_arch
from hpcc.sif.integrity import parse_statement
from hpcc.sif.load import Sif, load
from tests.conftest import SHARED_DATA

PRIMARY = d.partition_extra(d.FS_SQUASHFS, d.PART_PRIMARY_SYSTEM, "amd64")


def image(*objects: Object) -> bytearray:
    found = layout(objects, arch="amd64")
    return bytearray(found.head.ljust(found.end, b"\0"))


def loaded(data: bytes) -> Sif:
    return load(lambda offset, length: bytes(data[offset : offset + length]), len(data))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("empty", []),
        ("one-group", [d.PARTITION] * 2),
        ("one-group-signed-dsse", [d.PARTITION, d.PARTITION, d.SIGNATURE]),
        ("one-group-signed-legacy", [d.PARTITION, d.PARTITION, d.SIGNATURE]),
        ("one-group-signed-pgp", [d.PARTITION, d.PARTITION, d.SIGNATURE]),
        ("one-object-generic-json", [d.GENERIC_JSON]),
        ("one-object-sbom", [d.SBOM]),
        ("one-object-time", [d.GENERIC_JSON]),
    ],
)
def test_loads_the_reference_librarys_images(name: str, types: list[int]) -> None:
    data = (SHARED_DATA / "sif" / "images" / f"{name}.sif").read_bytes()
    sif = loaded(data)
    assert [each.type for each in sif.descriptors] == types
    assert sif.header.encode() == data[:128]
    for place, each in enumerate(sif.descriptors):
        at = sif.header.descriptors_offset + d.SIZE * place
        assert each.encode() == data[at : at + d.SIZE]
    if d.PARTITION in types:
        assert sif.primary().id == 2 and sif.header.arch == "386"
    else:
        with pytest.raises(InvalidImage, match="no primary system partition"):
            sif.primary()
    if "signed-dsse" in name:
        assert sif.descriptors[2].linked_group == 1
    if "legacy" in name:
        assert sif.descriptors[2].linked_object == 2


@pytest.mark.shared_data
def test_a_deleted_object_leaves_a_free_descriptor() -> None:
    data = (SHARED_DATA / "sif" / "create" / "TestDeleteObject-OneCompact.golden").read_bytes()
    assert [each.id for each in loaded(data).descriptors] == [2]


def test_reads_twice() -> None:
    data = image(Object(d.GENERIC, "x", 10))
    reads = []

    def read_at(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return bytes(data[offset : offset + length])

    load(read_at, len(data))
    assert reads == [(0, 128), (4096, 48 * 585)]


def test_architectures() -> None:
    assert encode_arch("amd64") == b"02\0" and encode_arch("s390x") == b"11\0" and encode_arch("loong64") == b"13\0"
    assert all(parse_arch(encode_arch(name)) == name for name in ARCHITECTURES)
    assert parse_arch(b"99\0") == parse_arch(b"x\xff\0") == parse_arch(b"\0\0\0") == "unknown"


def put(data: bytearray, at: int, form: str, value: int) -> bytearray:
    struct.pack_into(form, data, at, value)
    return data


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (32, "B", 0, "not a SIF"),
        (88, "<q", 4097, "4097 descriptors"),
        (88, "<q", -1, "-1 descriptors"),
        (96, "<q", -5, "do not lie"),
        (96, "<q", 2**62, "do not lie"),
        (4096 + 17, "<q", 2**62, "object 1"),
        (4096 + 17, "<q", -1, "object 1"),
        (4096 + 25, "<q", 2**62, "object 1"),
        (4096 + 25, "<q", -1, "object 1"),
        (4096 + 5, "<I", 0, "without an id"),
        (4096 + 5, "<I", 2, "two objects with id 2"),
    ],
)
def test_refuses(at: int, form: str, value: int, reason: str) -> None:
    data = image(Object(d.GENERIC, "x", 10), Object(d.PARTITION, "FS", 10, PRIMARY))
    assert loaded(data).primary().id == 2
    with pytest.raises(InvalidImage, match=reason):
        loaded(put(data, at, form, value))


def test_refuses_another_version_and_a_second_root() -> None:
    with pytest.raises(UnsupportedImage, match="version"):
        loaded(put(image(), 43, "B", ord("2")))
    part = Object(d.PARTITION, "FS", 1, PRIMARY)
    with pytest.raises(InvalidImage, match="2 primary"):
        loaded(image(part, part)).primary()


def test_every_truncation_is_an_invalid_image() -> None:
    data = bytes(image(Object(d.PARTITION, "FS", 10, PRIMARY)))
    for end in [*range(0, 200), *range(200, len(data), 397), len(data) - 1]:
        with pytest.raises(InvalidImage):
            loaded(data[:end])


@given(st.lists(st.tuples(st.integers(0, 36000), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_raise_nothing_else(flips: list[tuple[int, int]]) -> None:
    data = image(Object(d.GENERIC, "x", 10), Object(d.PARTITION, "FS", 10, PRIMARY))
    for at, value in flips:
        data[(at if at > 5500 else 4096 + at % 1170) % len(data)] = value
    try:
        sif = loaded(data)
        sif.primary()
    except (InvalidImage, UnsupportedImage):
        return
    assert all(each.offset >= 0 and each.offset + each.size <= len(data) for each in sif.descriptors)


@pytest.mark.parametrize("digest", [5, "sha256:0", None, []])
def test_signed_documents_whose_digests_are_none(digest: object) -> None:
    data = json.dumps({"version": 1, "header": {"digest": digest}, "objects": []})
    with pytest.raises(IntegrityError, match="does not tell of a SIF's objects"):
        parse_statement(data.encode())
