"""Layers as they come: gzip, zstd and plain, in any chunks, whole or broken."""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import InvalidImage
from hpcc.oci.compression import PIECE, decompress

DATA = random.Random(1).randbytes(3000) + b"text " * 50_000 + bytes(100_000)


def cut(blob: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(blob), size):
        yield blob[at : at + size]
        yield b""  # which a network may hand on too


def plain(blob: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(decompress(cut(blob, size)))


def zstd(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def streamed_zstd(data: bytes) -> bytes:
    """Without the content's size in the frame, as a stream has it."""
    made = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    return made.compress(data) + made.flush()


SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
EMPTY_SKIPPABLE = b"\x50\x2a\x4d\x18" + bytes(4)
HALVES = DATA[:1000], DATA[1000:]
WHOLE = {
    "gzip": gzip.compress(DATA),
    "gzip members": b"".join(gzip.compress(each) for each in HALVES),
    "gzip empty members": gzip.compress(b"") + gzip.compress(DATA) + gzip.compress(b""),
    "gzip with a name": b"\x1f\x8b\x08\x08" + bytes(6) + b"name\0" + gzip.compress(DATA)[10:],
    "zstd": zstd(DATA),
    "zstd stream": streamed_zstd(DATA),
    "zstd without size or checksum": zstd(DATA, write_content_size=False),
    "zstd checksum": zstd(DATA, write_checksum=True),
    "zstd frames": zstd(HALVES[0], write_checksum=True) + streamed_zstd(HALVES[1]),
    "zstd empty frames": zstd(b"") + streamed_zstd(b"") + zstd(DATA) + zstd(b""),
    "zstd skippable": SKIPPABLE + zstd(HALVES[0]) + EMPTY_SKIPPABLE + SKIPPABLE + zstd(HALVES[1]) + SKIPPABLE,
    "plain": DATA,
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("size", [1, 3, 4093, 1 << 20])
def test_whole(form: str, size: int) -> None:
    assert plain(WHOLE[form], size) == DATA


@pytest.mark.parametrize("blob", [b"", b"\0", b"\x1f", b"\x28\xb5\x2f", b"abc", bytes(1024)])
def test_what_is_not_compressed_stays(blob: bytes) -> None:
    assert plain(blob) == blob
    assert plain(blob, 1) == blob


def test_the_name_decides_nothing_the_bytes_do() -> None:
    assert plain(gzip.compress(zstd(DATA))) == zstd(DATA)


@pytest.mark.parametrize(
    "tail", [b"\0", bytes(5000), b"\x1f", b"\x8b\x1f", b"garbage" * 100, bytes(3) + gzip.compress(b"not read")]
)
@pytest.mark.parametrize("size", [1, 2, 1000, 1 << 20])
def test_what_follows_gzip_is_ignored(tail: bytes, size: int) -> None:
    blob = gzip.compress(b"first") + gzip.compress(b"second")
    assert plain(blob + tail, size) == b"firstsecond"
    assert plain(blob + tail, len(blob)) == b"firstsecond"


@pytest.mark.parametrize("tail", [b"\x1f\x8b", b"\x1f\x8bxxxxxxxxxxxxxx", gzip.compress(DATA)[:-1]])
@pytest.mark.parametrize("size", [1, 1000])
def test_a_broken_member_behind_a_whole_one(tail: bytes, size: int) -> None:
    with pytest.raises(InvalidImage):
        plain(gzip.compress(b"first") + tail, size)


@pytest.mark.parametrize("tail", [b"\0", bytes(5000), b"garbage", zstd(DATA)[:-1], SKIPPABLE[:-1], b"\x28\xb5"])
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_what_follows_zstd_is_damage(tail: bytes, size: int) -> None:
    with pytest.raises(InvalidImage):
        plain(zstd(b"first") + tail, size)


@pytest.mark.parametrize("form", [form for form in WHOLE if form != "plain"])
@pytest.mark.parametrize("size", [777, 1 << 20])
def test_truncated(form: str, size: int) -> None:
    blob = WHOLE[form]
    cuts = {*range(4, 60), *range(60, len(blob), 211), *range(len(blob) - 40, len(blob))}
    complete = set()
    for length in sorted(each for each in cuts if 4 <= each < len(blob)):
        try:
            found = plain(blob[:length], size)
        except InvalidImage:
            continue
        complete.add(length)
        assert DATA.startswith(found)
    # Only where a member or frame ends; one byte of the next gzip member is taken for garbage.
    assert len(complete) <= (9 if "skippable" in form or "empty" in form else 4 if "s" in form[4:] else 0), complete
    if form in ("gzip", "gzip with a name", "zstd", "zstd stream", "zstd without size or checksum", "zstd checksum"):
        assert not complete


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 500), st.integers(1, 255), st.integers(1, 5000))
def test_flipped_bytes(form: str, at: int, bits: int, size: int) -> None:
    blob = bytearray(WHOLE[form])
    blob[at % len(blob)] ^= bits
    try:
        assert sum(map(len, decompress(cut(bytes(blob), size)))) < 64 << 20
    except InvalidImage:
        pass


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"\x1f\x8b", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x5a\x2a\x4d\x18", b""]),
    st.binary(max_size=300),
)
def test_random_bytes(magic: bytes, data: bytes) -> None:
    try:
        for piece in decompress(cut(magic + data, 7)):
            assert len(piece) <= PIECE
    except InvalidImage:
        pass


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1])
@pytest.mark.parametrize("last", [1, 4, 7, 8, 9, 15])
def test_output_that_ends_with_a_piece(length: int, last: int) -> None:
    data = (b"abcdefgh" * (length // 8 + 1))[:length]
    blob = gzip.compress(data)
    assert b"".join(decompress([blob[:-last], blob[-last:]])) == data
    blob = streamed_zstd(data)
    assert b"".join(decompress([blob[:-last], blob[-last:]])) == data


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_bomb_comes_in_bounded_pieces(form: str) -> None:
    size = 256 << 20
    if form == "gzip":
        made = zlib.compressobj(9, wbits=31)
        blob = b"".join(made.compress(bytes(1 << 20)) for _ in range(size >> 20)) + made.flush()
    else:
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        blob = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    assert len(blob) < 1 << 20
    total = 0
    tracemalloc.start()
    try:
        for piece in decompress([blob]):
            assert len(piece) <= PIECE
            total += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == size
    assert peak < 16 << 20


def test_a_zstd_window_that_is_too_large() -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([20 << 3]) + b"\x01\0\0"  # 1 GiB
    with pytest.raises(InvalidImage):
        plain(frame)
