"""The tar reader: each dialect, the limits, equality with Python's tarfile, and hostile bytes."""

import io
import tarfile
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci import tar
from tests.support.layers import (
    END,
    SPARSE,
    archive,
    directory,
    file,
    gnu_sparse,
    hardlink,
    header,
    long_name,
    other,
    padded,
    pax,
    pax_sparse,
    read_tar,
    record,
    seal,
    sparse,
    symlink,
)

XATTR = b"SCHILY.xattr."


def one(*members: bytes) -> tuple[tar.Member, bytes]:
    found = read_tar(archive(*members))
    assert len(found) == 1
    return found[0]


# -- dialects ------------------------------------------------------------------------------------------------


def test_v7_knows_files_directories_and_links() -> None:
    data = archive(
        header(b"d/", b"\0", mode=0o755, magic=b""),
        header(b"d/f", b"\0", 3, uid=7, gid=8, mtime=9, magic=b"") + padded(b"abc"),
        header(b"h", b"1", target=b"d/f", magic=b""),
        header(b"s", b"2", target=b"d/f", magic=b""),
    )
    found = read_tar(data)
    assert [(m.name, m.type, m.target, d) for m, d in found] == [
        (b"d/", tar.DIRECTORY, b"", b""),
        (b"d/f", tar.REGULAR, b"", b"abc"),
        (b"h", tar.HARDLINK, b"d/f", b""),
        (b"s", tar.SYMLINK, b"d/f", b""),
    ]
    assert found[1][0][2:6] == (0o644, 7, 8, 9)


def test_contiguous_files_are_files() -> None:
    assert one(other(b"c", b"7", b"x"))[0].type == tar.REGULAR


def test_ustar_prefix() -> None:
    block = header(b"n" * 100, patches={345: b"p" * 155})
    assert one(block)[0].name == b"p" * 155 + b"/" + b"n" * 100
    assert one(header(b"n", magic=b"ustar  \0", patches={345: b"not a prefix under GNU"}))[0].name == b"n"


def test_names_of_full_length_have_no_nul() -> None:
    member = one(header(b"a" * 100, b"2", target=b"b" * 100))[0]
    assert (member.name, member.target) == (b"a" * 100, b"b" * 100)


def test_gnu_long_names_and_links() -> None:
    name, target = b"x/" * 300 + b"\xff", b"y" * 3000
    for first, second in (("L", "K"), ("K", "L")):
        parts = {"L": long_name(name), "K": long_name(target, b"K")}
        member = one(parts[first], parts[second], header(b"short", b"2", target=b"cut", magic=b"ustar  \0"))[0]
        assert (member.name, member.target) == (name, target)


def test_base_256_numbers() -> None:
    wide = {
        108: (0x80 << 56 | 2**32 - 2).to_bytes(8, "big"),
        116: (0x80 << 56 | 3_000_000).to_bytes(8, "big"),
        136: (0x80 << 88 | 5_000_000_000).to_bytes(12, "big"),
        124: (0x80 << 88 | 3).to_bytes(12, "big"),
    }
    member, data = one(header(b"f", patches=wide) + padded(b"abc"))
    assert (member.uid, member.gid, member.mtime, data) == (2**32 - 2, 3_000_000, 2**32 - 1, b"abc")
    before = one(header(b"f", patches={136: (-5).to_bytes(12, "big", signed=True)}))[0]
    assert before.mtime == 0


def test_numbers_with_spaces_and_without_nul() -> None:
    member = one(header(b"f", patches={100: b"   755 \0", 108: b"00000123", 116: b"\0" * 8}))[0]
    assert member[2:5] == (0o755, 0o123, 0)


def test_signed_checksums_of_old_tars() -> None:
    block = bytearray(header(b"\xe9\xe8"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(each - 256 if each > 127 else each for each in block)
    assert one(bytes(block))[0].name == b"\xe9\xe8"


def test_pax_replaces_the_header() -> None:
    name, target = b"long/" * 60 + b"\xfe", b"t" * 300
    records = {b"path": name, b"linkpath": target, b"uid": b"4294967294", b"gid": b"3000000", b"mtime": b"17.99"}
    member = one(pax({**records, b"comment": b"x\ny"}), header(b"short", b"2", mode=0o7))[0]
    assert member[:8] == (name, tar.SYMLINK, 0o7, 4294967294, 3000000, 17, 0, target)


def test_pax_size() -> None:
    member, data = one(pax({b"size": b"600"}), header(b"f") + padded(b"q" * 600))
    assert (member.size, data) == (600, b"q" * 600)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"0", 0), (b"1.5", 1), (b"1.999999999999", 1), (b"-1", 0), (b"-0.5", 0), (b"-0.0", 0), (b"7.", 7),
        (b"4294967295.9", 2**32 - 1), (b"4294967296", 2**32 - 1), (b"99999999999999999999", 2**32 - 1),
    ],
)  # fmt: skip
def test_pax_times_are_whole_seconds_that_squashfs_can_hold(text: bytes, seconds: int) -> None:
    assert one(pax({b"mtime": text}), header(b"f", mtime=5))[0].mtime == seconds


@pytest.mark.parametrize("text", [b"x", b"--5", b"-", b".5", b"1.x", b"1-", b"9" * 30, b"1e5", b"+5", b" 5", b"1.5.5"])
def test_bad_times(text: bytes) -> None:
    with pytest.raises(InvalidImage, match="mtime"):
        one(pax({b"mtime": text}), header(b"f"))


def test_xattrs_are_bytes() -> None:
    value = bytes(range(256)) + b"\n12 a=b\n"
    found = one(pax({XATTR + b"security.capability": value, XATTR + b"user.empty": b""}), header(b"f"))[0]
    assert found.xattrs == {b"security.capability": value, b"user.empty": b""}


def test_global_headers_hold_until_replaced() -> None:
    found = read_tar(
        archive(
            pax({b"uid": b"5", b"gid": b"6", XATTR + b"user.a": b"1"}, b"g"),
            header(b"a"),
            pax({b"uid": b"7"}),
            header(b"b"),
            pax({b"gid": b"8"}, b"g"),
            header(b"c", uid=1),
            pax({b"uid": b""}),
            header(b"d", uid=1),
        )
    )
    assert [(m.name, m.uid, m.gid) for m, _ in found] == [(b"a", 5, 6), (b"b", 7, 6), (b"c", 5, 8), (b"d", 1, 8)]
    assert all(m.xattrs == {b"user.a": b"1"} for m, _ in found)


def test_a_pax_header_is_for_one_member() -> None:
    assert [m.name for m, _ in read_tar(archive(pax({b"path": b"x"}), header(b"a"), header(b"b")))] == [b"x", b"b"]


def test_links_have_no_data_whatever_their_size() -> None:
    found = read_tar(
        archive(header(b"h", b"1", 4000, target=b"f"), pax({b"size": b"4000"}), header(b"i", b"1"), file(b"z"))
    )
    assert [(m.name, m.size) for m, _ in found] == [(b"h", 0), (b"i", 0), (b"z", 0)]


def test_devices() -> None:
    assert one(other(b"n", b"3", rdev=(1, 3)))[0].rdev == (1, 3)
    assert one(other(b"b", b"4", rdev=(4095, 1048575)))[0].rdev == (4095, 1048575)
    with pytest.raises(InvalidImage, match="device"):
        one(other(b"b", b"4", rdev=(4096, 0)))


# -- sparse files --------------------------------------------------------------------------------------------

PIECES = [(0, 10), (5000, 3000), (70000, 4096), (2**20, 1)]
SPARSE_SIZE = 2**20 + 5000
STORED = b"".join(bytes([65 + index]) * length for index, (_, length) in enumerate(PIECES))


def expanded(pieces: list[tuple[int, int]], stored: bytes, size: int) -> bytes:
    out, at = bytearray(size), 0
    for offset, length in pieces:
        out[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(out)


@pytest.mark.parametrize("version", SPARSE)
@pytest.mark.parametrize("block_size", [1000, 4096, 131072])
def test_sparse_files(version: str, block_size: int) -> None:
    data = archive(sparse(version, PIECES, STORED, SPARSE_SIZE), file(b"after", b"x"))
    reader = tar.TarReader(tar.ByteStream([data]))
    members = iter(reader)
    member = next(members)
    blocks = list(reader.blocks(block_size))
    assert (member.name, member.size) == (b"s", SPARSE_SIZE)
    assert {len(block) for block in blocks[:-1]} == {block_size}
    assert b"".join(blocks) == expanded(PIECES, STORED, SPARSE_SIZE)
    assert next(members).name == b"after"


@pytest.mark.parametrize("version", SPARSE)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 16, 25, 26, 47, 100, 3000])
def test_maps_of_any_length(version: str, count: int) -> None:
    pieces = [(index * 7 + 1_000_000, 3) for index in range(count)]
    stored = bytes(index % 251 + 1 for index in range(3 * count))
    size = 1_000_000 + 7 * count + 1
    for skip in (False, True):
        data = archive(sparse(version, pieces, stored, size), file(b"after", b"x"))
        reader = tar.TarReader(tar.ByteStream([data]))
        found = []
        for member in reader:
            found.append((member.name, b"" if skip else b"".join(reader.blocks(131072))))
        assert [name for name, _ in found] == [b"s", b"after"]
        assert skip or found[0][1] == expanded(pieces, stored, size)


@pytest.mark.parametrize("version", SPARSE)
def test_sparse_maps_that_lie(version: str) -> None:
    for pieces, stored, size in (
        ([(10, 5), (0, 5)], b"x" * 10, 100),  # out of order
        ([(0, 5), (3, 5)], b"x" * 10, 100),  # overlapping
        ([(90, 20)], b"x" * 20, 100),  # beyond the size
        ([(0, 5000)], b"x" * 10, 5000),  # more than is stored
    ):
        with pytest.raises(InvalidImage):
            read_tar(archive(sparse(version, pieces, stored, size)))


def test_a_negative_real_size() -> None:
    block = bytearray(header(b"s", b"S", magic=b"ustar  \0"))
    block[483:495] = (-5).to_bytes(12, "big", signed=True)
    with pytest.raises(InvalidImage, match="negative"):
        read_tar(archive(seal(block)))


def test_sparse_files_have_a_limit_together() -> None:
    big = gnu_sparse([], b"", 6 << 30)
    reader = tar.TarReader(tar.ByteStream([archive(*[big] * 170)]))
    assert len(list(islice(reader, 170))) == 170
    huge = header(b"s", b"S", patches={483: (0x80 << 88 | tar.MAX_SPARSE).to_bytes(12, "big")}, magic=b"ustar  \0")
    with pytest.raises(UnsupportedImage, match="sparse"):
        list(tar.TarReader(tar.ByteStream([archive(huge, huge)])))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"1\n",
        b"5",
        b"9" * 600,
        b"\n" * 600,
        b"-1\n",
        b"1\n0\nx\n",
        b"99999999999\n",
        b"15\n" + b"0" * 2000,
        b"0" * 511,
    ],
)
def test_broken_maps_of_version_1(body: bytes) -> None:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"100"}
    with pytest.raises(InvalidImage):
        read_tar(archive(pax(records), header(b"s", b"0", len(body)) + padded(body)))


# -- the end, and what is no archive -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [b"", bytes(512), END, bytes(10240), END + b"garbage" * 999, END + file(b"hidden", b"x")]
)
def test_ends(end: bytes) -> None:
    assert [m.name for m, _ in read_tar(file(b"a", b"x") + end)] == [b"a"]


def test_a_lone_block_of_zeros_is_damage() -> None:
    with pytest.raises(InvalidImage, match="zeros"):
        read_tar(file(b"a") + bytes(512) + file(b"b") + END)


def test_empty() -> None:
    assert read_tar(b"") == []
    assert read_tar(END) == []


RICH = [
    file(b"a", b"x" * 700),
    directory(b"d" * 120, extended={XATTR + b"user.x": b"\0\n"}),
    long_name(b"n" * 200),
    header(b"n", b"0", 5) + padded(b"hello"),
    pax({b"uid": b"9"}, b"g"),
    gnu_sparse([(0, 3), (9000, 5), (10000, 1), (11000, 1), (12000, 1), (13000, 1)], b"abcDEFGHIJKL", 20000),
    pax_sparse("1.0", PIECES, STORED[:7107], SPARSE_SIZE),
    pax_sparse("0.0", PIECES, STORED[:7107], SPARSE_SIZE),
    symlink(b"l", b"t" * 150),
    hardlink(b"h", b"a"),
    other(b"null", b"3", rdev=(1, 3)),
]


def test_truncated_anywhere() -> None:
    whole = b"".join(RICH)
    members = read_tar(whole)
    boundaries = {0}
    sizes = [len(each) for each in RICH]
    for index in range(len(sizes)):
        boundaries.add(sum(sizes[: index + 1]))
    boundaries -= {sum(sizes[:3]), sum(sizes[:5])}  # after a long name or a global header
    for cut in sorted({*range(0, len(whole), 97), *range(512, len(whole), 512), *(len(whole) - n for n in (1, 2))}):
        if cut in boundaries:
            assert read_tar(whole[:cut]) == members[: len(read_tar(whole[:cut]))]
            continue
        with pytest.raises(InvalidImage):
            read_tar(whole[:cut])


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513, 4096])
def test_chunks_do_not_matter(chunk: int) -> None:
    whole = archive(*RICH)
    assert read_tar(whole, chunk) == read_tar(whole)


def test_skipped_data_is_skipped() -> None:
    reader = tar.TarReader(tar.ByteStream([archive(*RICH)]))
    names = []
    for member in reader:
        names.append(member.name)
        next(iter(reader.blocks(10)), None)
    assert names == [m.name for m, _ in read_tar(archive(*RICH))]


@pytest.mark.parametrize("at", [0, 100, 124, 148, 150, 156, 345, 511])
def test_a_wrong_checksum(at: int) -> None:
    block = bytearray(header(b"name"))
    block[at] ^= 1
    with pytest.raises(InvalidImage):
        read_tar(bytes(block) + END)


@pytest.mark.parametrize(
    "data",
    [
        b"x", b"\x1f\x8b" * 300, b"not a tar archive" * 100, bytes(511), bytes(512) + b"x",
        header(b"n", patches={124: b"99999999999\0"}) + END,
        header(b"n", patches={124: (-512).to_bytes(12, "big", signed=True)}) + END,
        header(b"n", patches={124: b"\x80" + b"\xff" * 11}) + END,
        header(b"n", b"x", patches={124: (-512).to_bytes(12, "big", signed=True)}) + END,
        header(b"n", b"L", patches={124: (-1).to_bytes(12, "big", signed=True)}) + END,
        header(b"n", b"x", patches={124: b"\x80" + b"\xff" * 11}) + END,
        header(b"n", b"x", tar.MAX_EXTENDED + 1) + END,
        header(b"n", patches={108: (-1).to_bytes(8, "big", signed=True)}) + END,
        header(b"n", b"V") + END, header(b"n", b"M") + END, header(b"n", b"\xff") + END,
        pax({b"size": b"1" * 20}) + header(b"n") + END,
        pax({b"size": b"-1"}) + header(b"n") + END,
        pax({b"uid": b"4294967296"}) + header(b"n") + END,
        pax({b"uid": b"-1"}) + header(b"n") + END,
        pax({b"uid": b"1.5"}) + header(b"n") + END,
        pax({b"path": b"x"}) + END,
        pax({b"path": b"x"}),
        long_name(b"x"),
        pax({b"GNU.sparse.size": b"100", b"GNU.sparse.map": b"0,x"}) + header(b"n") + END,
        pax({b"GNU.sparse.map": b"0,1"}) + header(b"n") + END,
        pax({b"GNU.sparse.major": b"1"}) + header(b"n") + END,
    ],
)  # fmt: skip
def test_bad_archives(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        read_tar(data)


@pytest.mark.parametrize(
    "body",
    [
        b"x", b"5", b"0 a=b\n", b"3 a=b\n", b"6 a=b\n6 a=", b"7 a=b\n", b"5 a=b\n", b"-6 a=b\n", b"6 =bc\n", b"6 abc\n",
        b"999999 a=b\n", b"000000000000000000000000000006 a=b\n", b"6 a=b\n\0\0\0", b"6\ta=b\n", b"6 a=bc",
    ],
)  # fmt: skip
def test_bad_pax_records(body: bytes) -> None:
    with pytest.raises(InvalidImage):
        read_tar(header(b"x", b"x", len(body)) + padded(body) + header(b"n") + END)


def test_extended_headers_have_a_limit_together() -> None:
    big = b"".join(record(b"key%d" % index, b"v" * 1000) for index in range(900))
    one_header = header(b"x", b"x", len(big)) + padded(big)
    read_tar(archive(one_header, header(b"n")))
    with pytest.raises(InvalidImage, match="extended headers"):
        read_tar(archive(*[one_header] * 5, header(b"n")))
    other_keys = big.replace(b"key", b"abc")
    with pytest.raises(InvalidImage, match="global"):
        read_tar(
            archive(
                header(b"x", b"g", len(big)) + padded(big),
                header(b"n"),
                header(b"x", b"g", len(big)) + padded(other_keys),
                header(b"n"),
            )
        )


# -- against tarfile, and at random --------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=180).filter(
    lambda name: name.strip("/")
)
infos = st.tuples(
    st.one_of(text, st.text("ab/", min_size=1, max_size=280).filter(lambda name: name.strip("/"))),
    st.sampled_from(
        [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    ),
    st.integers(0, 0o7777),
    st.sampled_from([0, 1, 0o7777777, 0o10000000, 2**32 - 1]),
    st.sampled_from([0, 1, 8**11 - 1, 1.5, 1714979289.987654]),
    st.binary(max_size=1500),
    text,
)


def build(members: list[tuple], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as made:
        for name, kind, mode, owner, mtime, data, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, owner, owner // 2, mtime
            if form != tarfile.PAX_FORMAT:
                info.mtime = int(mtime)
            if kind == tarfile.REGTYPE:
                info.size = len(data)
            elif kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = target
            elif kind == tarfile.CHRTYPE:
                info.devmajor, info.devminor = owner % 4096, owner % 1048576
            try:
                made.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar cannot hold it
                continue
    return out.getvalue()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(infos, max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3000),
)
def test_tarfile_reads_the_same(members: list[tuple], form: int, chunk: int) -> None:
    data = build(members, form)
    expected = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as read:
        for info in read:
            stream = read.extractfile(info) if info.isreg() else None
            expected.append(
                (
                    info.name.encode("utf-8", "surrogateescape").rstrip(b"/"),
                    info.type, info.mode, info.uid, info.gid, min(int(info.mtime), 2**32 - 1),
                    info.size if stream else 0,
                    info.linkname.encode("utf-8", "surrogateescape") if info.issym() or info.islnk() else b"",
                    (info.devmajor, info.devminor) if info.ischr() else (0, 0), stream.read() if stream else b"",
                )
            )  # fmt: skip
    found = [
        (m.name.rstrip(b"/"), m.type, m.mode, m.uid, m.gid, m.mtime, m.size, m.target, m.rdev, content)
        for m, content in read_tar(data, chunk)
    ]
    assert found == expected


def harmless(data: bytes) -> None:
    """Read `data`, at most 2 MiB of each file; only the two errors may come."""
    reader = tar.TarReader(tar.ByteStream([data[at : at + 1000] for at in range(0, len(data), 1000)]))
    try:
        for count, _ in enumerate(reader):
            assert count <= len(data) // 512
            for block in islice(reader.blocks(131072), 16):
                assert 0 < len(block) <= 131072
    except (InvalidImage, UnsupportedImage):
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_random_bytes(data: bytes) -> None:
    harmless(data)
    harmless(seal(data[:512].ljust(512, b"\0")) + data[512:] + END)


@settings(max_examples=600, deadline=None)
@given(
    st.integers(0, len(b"".join(RICH)) // 512 - 1),
    st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=13)), min_size=1, max_size=4),
    st.booleans(),
)
def test_damaged_headers_and_bodies(block: int, damage: list[tuple[int, bytes]], sealed: bool) -> None:
    data = bytearray(archive(*RICH))
    for offset, new in damage:
        at = block * 512 + offset
        data[at : at + len(new)] = new
    if sealed:
        data[block * 512 : block * 512 + 512] = seal(data[block * 512 : block * 512 + 512])
    harmless(bytes(data))


FIELDS = [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (329, 8), (337, 8), (386, 12), (398, 12), (483, 12)]


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(FIELDS), st.binary(min_size=12, max_size=12)), min_size=1, max_size=3),
    st.sampled_from(b"01234567xgLKSVMD\0"),
    st.binary(max_size=600),
)
def test_absurd_fields(fields: list[tuple[tuple[int, int], bytes]], kind: int, body: bytes) -> None:
    block = bytearray(header(b"name", bytes([kind]), len(body)))
    for (offset, length), value in fields:
        block[offset : offset + length] = value[:length]
    harmless(seal(block) + padded(body) + header(b"x") + END)


pax_keys = st.sampled_from(
    [
        b"path", b"linkpath", b"size", b"uid", b"mtime", b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size",
        b"GNU.sparse.realsize", b"GNU.sparse.name", b"GNU.sparse.offset", b"GNU.sparse.numbytes", XATTR + b"user.x",
    ]
)  # fmt: skip
pax_values = st.one_of(
    st.sampled_from([b"", b"0", b"1", b"-1", b"5", b"600", b"0,5", b"0,5,10,600", b"1.5", b"9" * 19, b"9" * 25, b"\0"]),
    st.binary(max_size=9),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(pax_keys, pax_values), max_size=6), st.sampled_from(b"xg"), st.binary(max_size=1500))
def test_absurd_pax_records(records: list[tuple[bytes, bytes]], kind: int, body: bytes) -> None:
    harmless(pax(records, bytes([kind])) + header(b"f", b"0", len(body)) + padded(body) + file(b"g") + END)
