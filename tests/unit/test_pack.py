"""Packs: what they hold, how they come back, and what is refused."""

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc import fstree
from hpcc.blocks import BlockQueue
from hpcc.compressors import BLOCK_SIZE, make_compressor
from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci import layer
from hpcc.pack import MAGIC, MOST_COMPARED, STORED_MASK, Pack, read_pack, write_pack
from hpcc.squashfs.compression import GZIP, decompressor
from hpcc.squashfs.inode import NO_FRAGMENT, Placement
from tests.support.layers import archive, directory, file, hardlink, other, read_tar, symlink

COMPRESSOR = make_compressor()
RANDOM = random.Random(3).randbytes(5 * BLOCK_SIZE)
TEXT = b"".join(b"line %d\n" % index for index in range(40_000))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def packed(data: bytes, pool: ThreadPoolExecutor, name: str = "name") -> tuple[bytes, Pack]:
    out = io.BytesIO()
    pack = write_pack(out, name, [data], COMPRESSOR.compress, pool, 8)
    return out.getvalue(), pack


def again(blob: bytes, name: str = "name") -> Pack:
    return read_pack(lambda offset, size: blob[offset : offset + size], len(blob), name)


def places(pack: Pack) -> dict[bytes, Placement]:
    return {item.path: item.data for item in pack.entries if item.data is not None}


def content(blob: bytes, pack: Pack, place: Placement) -> bytes:
    unpack = decompressor(GZIP)

    def block(start: int, word: int, size: int) -> bytes:
        data = blob[start : start + (word & STORED_MASK)]
        return data if word > STORED_MASK else unpack(data, size)

    if place.fragment != NO_FRAGMENT:
        start, word, size = pack.fragments[place.fragment]
        return block(start, word, size)[place.offset : place.offset + place.size]
    out, at = b"", place.start
    for word in place.blocks:
        left = min(BLOCK_SIZE, place.size - len(out))
        out += block(at, word, left) if word else bytes(left)
        at += word & STORED_MASK
    return out


FILES = {
    b"empty": b"",
    b"small": b"x",
    b"random": RANDOM,
    b"text": TEXT,
    b"block": TEXT[:BLOCK_SIZE],
    b"below": TEXT[: BLOCK_SIZE - 1],
    b"above": TEXT[: BLOCK_SIZE + 1],
    b"hole": bytes(3 * BLOCK_SIZE + 5),
    b"after the hole": RANDOM[: BLOCK_SIZE + 7],
    b"holes": bytes(BLOCK_SIZE) + RANDOM[:BLOCK_SIZE] + bytes(2 * BLOCK_SIZE) + b"end" + bytes(1000),
    b"zeros": bytes(1000),
}


def test_content_and_attributes(pool: ThreadPoolExecutor) -> None:
    members = [file(name, data, mode=0o640, uid=7) for name, data in FILES.items()]
    blob, pack = packed(archive(*members, directory(b"d"), symlink(b"l", b"small"), hardlink(b"h", b"text")), pool)
    found = places(pack)
    assert {name: content(blob, pack, place) for name, place in found.items()} == FILES
    assert {name: place.size for name, place in found.items()} == {name: len(data) for name, data in FILES.items()}
    assert all(item.mode == 0o640 and item.uid == 7 for item in pack.entries if item.kind == fstree.REGULAR)
    assert [item.kind for item in pack.entries[-3:]] == [fstree.DIRECTORY, fstree.SYMLINK, layer.HARDLINK]
    assert blob.startswith(MAGIC)


def test_holes_take_no_room(pool: ThreadPoolExecutor) -> None:
    blob, pack = packed(archive(*(file(name, FILES[name]) for name in (b"hole", b"holes"))), pool)
    found = places(pack)
    assert found[b"hole"].blocks == (0,) * 4 and found[b"hole"].sparse == len(FILES[b"hole"])
    assert [bool(word) for word in found[b"holes"].blocks] == [False, True, False, False, True]
    assert found[b"holes"].sparse == 3 * BLOCK_SIZE
    assert len(blob) < 140_000


def test_duplicates_share_data(pool: ThreadPoolExecutor) -> None:
    members = [
        file(b"1/text", TEXT), file(b"1/random", RANDOM), file(b"1/small", b"s" * 100),
        file(b"2/text", TEXT), file(b"2/random", RANDOM), file(b"2/small", b"s" * 100), file(b"2/other", b"t" * 100),
        file(b"3/random", RANDOM), file(b"3/hole", bytes(BLOCK_SIZE * 2)), file(b"4/hole", bytes(BLOCK_SIZE * 2)),
    ]  # fmt: skip
    blob, pack = packed(archive(*members), pool)
    found = places(pack)
    for name in (b"text", b"random", b"small"):
        assert found[b"1/" + name] == found[b"2/" + name]
    assert found[b"3/random"] == found[b"1/random"]
    assert found[b"2/other"] != found[b"2/small"]
    assert blob.count(RANDOM[:1000]) == 1
    once, _ = packed(archive(*members[:3], members[6], members[8]), pool)
    assert len(blob) - len(once) < 400  # their entries
    assert {name: content(blob, pack, place)[:1] for name, place in found.items()}[b"2/random"] == RANDOM[:1]


def test_a_crc_is_not_believed(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose blocks have one CRC and one size, as stored ones have, are compared, with a few at most."""
    monkeypatch.setattr("hpcc.pack.crc32", lambda data, crc: 0)
    source = random.Random(4)
    contents = [source.randbytes(BLOCK_SIZE) for _ in range(MOST_COMPARED + 2)]
    members = [file(b"%d/%d" % (copy, number), data) for copy in (1, 2) for number, data in enumerate(contents)]
    blob, pack = packed(archive(*members), pool)
    found = places(pack)
    for number, data in enumerate(contents):
        first, second = found[b"1/%d" % number], found[b"2/%d" % number]
        assert (first == second) == (number < MOST_COMPARED)
        for place in (first, second):
            assert blob[place.start : place.start + BLOCK_SIZE] == data


def test_files_that_differ_in_holes_only_are_no_duplicates(pool: ThreadPoolExecutor) -> None:
    block = RANDOM[:BLOCK_SIZE]
    data = {
        b"a": bytes(BLOCK_SIZE) + block,
        b"b": block + bytes(BLOCK_SIZE),
        b"c": block + block,
        b"d": block + bytes(5),
    }
    blob, pack = packed(archive(*(file(name, each) for name, each in data.items())), pool)
    assert {name: content(blob, pack, place) for name, place in places(pack).items()} == data


def test_fragments(pool: ThreadPoolExecutor) -> None:
    data = {b"%d" % index: RANDOM[index * 1000 : index * 1000 + 30_000] for index in range(20)}
    blob, pack = packed(archive(*(file(name, each) for name, each in data.items())), pool)
    assert {name: content(blob, pack, place) for name, place in places(pack).items()} == data
    assert len(pack.fragments) == 5
    assert all(0 < fragment.size <= BLOCK_SIZE for fragment in pack.fragments)


def test_what_is_read_back_equals_what_was_written(pool: ThreadPoolExecutor) -> None:
    odd = {b"SCHILY.xattr.user.\xff\0": b"\0\xff", b"SCHILY.xattr.security.capability": bytes(range(20))}
    members = [
        *(file(name, data) for name, data in FILES.items()),
        file(b"\xff\xfe\n\"\\", b"x", extended=odd),
        directory(b"d", mode=0o7777, uid=2**21 - 1), symlink(b"l", b"\xff"), other(b"n", b"3", rdev=(1, 3)),
        file(b".wh.gone"), file(b"d/.wh..wh..opq"), hardlink(b"h", b"small"),
    ]  # fmt: skip
    blob, pack = packed(archive(*members), pool)
    assert again(blob) == pack
    assert len(pack.entries) == len(members)


def test_an_empty_layer(pool: ThreadPoolExecutor) -> None:
    for data in (b"", bytes(1024)):
        blob, pack = packed(data, pool)
        assert pack.entries == () == pack.fragments
        assert again(blob) == pack


def test_another_name_is_refused(pool: ThreadPoolExecutor) -> None:
    blob, _ = packed(archive(file(b"f", TEXT)), pool, "mine")
    assert again(blob, "mine").name == "mine"
    with pytest.raises(InvalidImage, match="really mine"):
        again(blob, "yours")


def test_truncated_or_longer_packs_are_refused(pool: ThreadPoolExecutor) -> None:
    blob, _ = packed(archive(*(file(name, data) for name, data in FILES.items())), pool)
    for length in {*range(0, 100), *range(0, len(blob), 30_011), *range(len(blob) - 300, len(blob))}:
        with pytest.raises(InvalidImage):
            again(blob[:length])
        with pytest.raises(InvalidImage):  # the file became shorter after its size was asked
            read_pack(lambda offset, size, end=length: blob[:end][offset : offset + size], len(blob), "name")
    with pytest.raises(InvalidImage):
        again(blob + b"\0")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 255))
def test_a_damaged_index_is_refused(back: int, bits: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        blob = bytearray(packed(archive(file(b"f", b"x"), directory(b"d")), pool)[0])
    end = len(blob) - 48
    start = int.from_bytes(blob[end : end + 8], "little")
    blob[len(blob) - 1 - (back - 1) % (len(blob) - start)] ^= bits
    with pytest.raises(InvalidImage):
        again(bytes(blob))


@pytest.mark.parametrize(
    "index",
    [
        b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"name":"name","files":[],"fragments":[],"entries":[[]]}',
        b"\xff",
        b'{"name":"name","files":[[5,16,[],0,0,0]],"fragments":[],"entries":[]}',
        b'{"name":"name","files":[[5,16,[],0,-5,0]],"fragments":[[16,1,9]],"entries":[]}',
        b'{"name":"name","files":[[5,16,[9999],0,0,0]],"fragments":[],"entries":[]}',
        b'{"name":"name","files":[[500000,16,[1],0,0,0]],"fragments":[],"entries":[]}',
        b'{"name":"name","files":[],"fragments":[[16,9999,9]],"entries":[]}',
        b'{"name":"name","files":[],"fragments":[[0,1,9]],"entries":[]}',
        b'{"name":"name","files":[],"fragments":[["x",1,9]],"entries":[]}',
        b'{"name":"name","files":[],"fragments":[],"entries":[["f",2,0,0,0,0,[],"",[0,0],0]]}',
        b'{"name":"name","files":[],"fragments":[],"entries":[["f",2,0,0,0,0,[],"",[0,0],null]]}',
        b'{"name":"name","files":[],"fragments":[],"entries":[[5,1,0,0,0,0,[],"",[0,0],null]]}',
    ],
)  # fmt: skip
def test_an_index_that_lies(index: bytes) -> None:
    import struct
    import zlib
    from hashlib import sha256

    body = zlib.compress(index)
    blob = MAGIC + b"data" + body + struct.pack("<QQ32s", 20, len(body), sha256(body).digest())
    with pytest.raises(InvalidImage):
        again(blob)


def many_files() -> bytes:
    source = random.Random(9)
    members = []
    for index in range(300):
        size = source.choice([0, 10, 5000, 100_000, 140_000, 400_000])
        data = source.choice([RANDOM, TEXT, bytes(400_000)])[:size]
        members.append(file(b"%d" % index, data))
    return archive(*members)


def test_threads_change_no_byte() -> None:
    data = many_files()
    found = set()
    for threads in (1, 8):
        for depth in (1, 4, 64):
            out = io.BytesIO()
            with ThreadPoolExecutor(threads) as pool:
                step = 7919 * depth
                chunks = (data[at : at + step] for at in range(0, len(data), step))
                write_pack(out, "name", chunks, COMPRESSOR.compress, pool, depth)
            found.add(out.getvalue())
    assert len(found) == 1


def test_broken_layers(pool: ThreadPoolExecutor) -> None:
    whole = archive(file(b"f", TEXT), file(b"g", RANDOM))
    for data in (whole[:1000], whole[:200_000], b"no tar" * 1000, archive(file(b"../x", b"y"))):
        with pytest.raises(InvalidImage):
            packed(data, pool)


def test_where_a_layer_is_broken(pool: ThreadPoolExecutor) -> None:
    good = file(b"f", b"x" * 600)
    for bad, says in (
        (b"no header" * 100, "checksum"),
        (file(b"../x"), r"\.\./x points outside"),
        (file(b"g", b"y")[:700], "ends"),
    ):
        with pytest.raises(
            InvalidImage, match=rf"{says}.*, at byte {len(good) + 512 * (1 + (says == 'ends'))} of the tar$"
        ):
            packed(good + bad, pool)


def test_the_stream_is_read_to_its_end(pool: ThreadPoolExecutor) -> None:
    taken = []

    def chunks() -> Iterator[bytes]:
        for chunk in (archive(file(b"f", b"x")), b"behind", b"the end"):
            taken.append(chunk)
            yield chunk

    write_pack(io.BytesIO(), "name", chunks(), COMPRESSOR.compress, pool, 2)
    assert len(taken) == 3


def test_too_many_members(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcc.pack.MAX_ENTRIES", 10_000)
    packed(archive(*(directory(b"d") for _ in range(40))), pool)
    with pytest.raises(UnsupportedImage):
        packed(archive(*(directory(b"d") for _ in range(60))), pool)


def test_a_queue_of_holes_stays_short(pool: ThreadPoolExecutor) -> None:
    queue = BlockQueue(COMPRESSOR.compress, pool, 4)
    order: list[int] = []
    queue.put(b"x" * 100, lambda word, data: order.append(-1))
    for index in range(1000):
        queue.then(lambda index=index: order.append(index))
        assert len(queue._waiting) <= 4
    queue.flush()
    assert order == [-1, *range(1000)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"c"]),
            st.sampled_from([0, 1, 500, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE]),
            st.sampled_from([RANDOM, TEXT, bytes(3 * BLOCK_SIZE), bytes(BLOCK_SIZE) + RANDOM]),
        ),
        max_size=8,
    )
)
def test_any_files_come_back(files: list[tuple[bytes, int, bytes]]) -> None:
    data = archive(*(file(name, content[:size]) for name, size, content in files))
    with ThreadPoolExecutor(2) as pool:
        blob, pack = packed(data, pool)
    assert again(blob) == pack
    expected = [body for _, body in read_tar(data)]
    assert [content(blob, pack, item.data) for item in pack.entries] == expected
