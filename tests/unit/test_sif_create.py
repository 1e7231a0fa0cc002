"""A new SIF, byte for byte as the reference library's Create writes it."""

import pytest

from hpcc.errors import UnsupportedImage
from hpcc.sif import descriptor as d
from hpcc.sif.create import DATA_OFFSET, Object, layout
from hpcc.sif.load import load
from tests.conftest import SHARED_DATA

GOLDENS = SHARED_DATA / "sif" / "create"
PRIMARY_386 = d.partition_extra(d.FS_SQUASHFS, d.PART_PRIMARY_SYSTEM, "386")

GENERIC = (Object(d.GENERIC, "", 2), b"\xfa\xce")


def written(objects: list[tuple[Object, bytes]], arch: str) -> bytes:
    found = layout([each for each, _ in objects], arch=arch, launch=b"")
    out = bytearray(found.head)
    for offset, (_, body) in zip(found.offsets, objects, strict=True):
        out += bytes(offset - len(out)) + body
    assert len(out) == found.end
    return bytes(out)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("golden", "objects", "arch"),
    [
        ("TestCreateContainer-Empty", [], "unknown"),
        ("TestCreateContainer-OneDescriptor", [GENERIC], "unknown"),
        (
            "TestCreateContainer-TwoDescriptorsAligned",
            [GENERIC, (Object(d.PARTITION, "", 2, PRIMARY_386, 4), b"\xfe\xed")],
            "386",
        ),
        (
            "TestAddObject-NotEmptyAligned",  # the same as if both had been there from the beginning
            [GENERIC, (Object(d.PARTITION, "", 2, PRIMARY_386, 128), b"\xfe\xed")],
            "386",
        ),
    ],
)
def test_equals_the_reference_librarys_file(golden: str, objects: list[tuple[Object, bytes]], arch: str) -> None:
    assert written(objects, arch) == (GOLDENS / f"{golden}.golden").read_bytes()


@pytest.mark.shared_data
def test_equals_the_reference_librarys_image_of_two_partitions() -> None:
    image = (SHARED_DATA / "sif" / "images" / "one-group.sif").read_bytes()
    found = load(lambda offset, length: image[offset : offset + length], len(image))
    bodies = [image[each.offset : each.offset + each.size] for each in found.descriptors]
    objects = [
        (Object(d.PARTITION, "", len(body), each.extra), body)
        for each, body in zip(found.descriptors, bodies, strict=True)
    ]
    assert written(objects, "386") == image


def test_offsets_do_not_depend_on_the_last_size_and_partitions_are_aligned() -> None:
    def of(size: int):
        partition = Object(d.PARTITION, "FS", size, d.partition_extra(1, d.PART_PRIMARY_SYSTEM, "amd64"))
        return layout([Object(d.DEFFILE, "Def.FILE", 999), partition], arch="amd64")

    first, second = of(0), of(123456)
    assert first.offsets == second.offsets == (DATA_OFFSET, 36864)
    assert second.end == 36864 + 123456
    assert len(second.head) == DATA_OFFSET and second.head.startswith(b"#!/usr/bin/env run-singularity\n\0")


def test_what_is_laid_out_loads() -> None:
    objects = [
        Object(d.DEFFILE, "Def.FILE", 5),
        Object(d.PARTITION, "FS", 4096, d.partition_extra(d.FS_SQUASHFS, d.PART_PRIMARY_SYSTEM, "arm64")),
        Object(d.SIGNATURE, "ünï", 0, b"\4", group=0, link=d.GROUP | 1),
    ]
    head, offsets, end = layout(objects, arch="arm64")
    image = head.ljust(end, b"\0")
    sif = load(lambda offset, length: image[offset : offset + length], len(image))
    assert sif.header.arch == "arm64"
    assert [(each.id, each.offset, each.size) for each in sif.descriptors] == [
        (1, offsets[0], 5), (2, offsets[1], 4096), (3, offsets[2], 0),
    ]  # fmt: skip
    assert sif.primary().partition == d.Partition(d.FS_SQUASHFS, d.PART_PRIMARY_SYSTEM, "arm64")
    signature = sif.find(d.SIGNATURE, "ünï")
    assert signature is not None
    assert (signature.group_number, signature.linked_group, signature.linked_object) == (0, 1, 0)
    assert sif.find(d.SIGNATURE, "other") is None


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(UnsupportedImage, match="49 objects"):
        layout([Object(d.GENERIC, "", 0)] * 49, arch="amd64")
    with pytest.raises(UnsupportedImage, match="sparc"):
        layout([], arch="sparc")
    with pytest.raises(ValueError, match="too long"):
        layout([Object(d.GENERIC, "n" * 129, 0)], arch="amd64")
