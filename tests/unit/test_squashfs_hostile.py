"""Damaged and malicious images: InvalidImage or UnsupportedImage, soon, and nothing else."""

import lzma
import random
import struct
import sys
import time
import zlib

import pytest
import zstandard

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.fstree import DIRECTORY, REGULAR, Node
from hpcc.squashfs.compression import GZIP, LZ4, LZMA, LZO, XZ, ZSTD, decompressor
from hpcc.squashfs.metadata import MetadataReader
from tests.support.squash import build, of_image, opened, rich_tree


def small_tree() -> Node:
    """Rich, with less data."""
    root = rich_tree()
    for _, node in root.walk():
        if node.kind == REGULAR:
            node.data = node.data[:9000]
    return root


def use(image: bytes) -> None:
    """Read all of an image; only the two errors may come out."""
    try:
        found = opened(image)
        found.ids()
        for path, inode in found.walk():
            if inode.kind == REGULAR:
                for count, _ in enumerate(found.read(inode)):
                    if count > 1000:  # a file of holes may be as large as it likes
                        break
            elif inode.kind != DIRECTORY:
                continue
            found.lookup(path)
    except (InvalidImage, UnsupportedImage):
        pass


def stored(data: bytes) -> bytes:
    """No compression, so that every byte of the tables can be hit."""
    return data


@pytest.mark.parametrize("compress", [stored, zlib.compress])
def test_truncations(compress) -> None:
    image = build(small_tree(), block_size=4096, compress=compress)
    used = struct.unpack_from("<Q", image, 40)[0]
    for end in [*range(0, 200, 3), *range(200, used, 211), used - 1]:
        with pytest.raises(InvalidImage):
            of_image(image[:end])
        # The same with a superblock that does not know: the reads come back short.
        use(image[:40] + struct.pack("<Q", max(end, 97)) + image[48:end])
    assert of_image(image[:used]) == of_image(image)


@pytest.mark.parametrize("compress", [stored, zlib.compress])
@pytest.mark.parametrize("seed", range(4))
def test_random_flips(compress, seed: int) -> None:
    image = build(small_tree(), block_size=4096, compress=compress)
    used, tables = struct.unpack_from("<Q", image, 40)[0], struct.unpack_from("<Q", image, 64)[0]
    chance = random.Random(seed)
    begin = time.monotonic()
    for _ in range(150):
        bad = bytearray(image)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice([chance.randrange(96), chance.randrange(tables, used), chance.randrange(tables, used)])
            bad[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        use(bytes(bad))
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("at", range(12, 96, 4))
@pytest.mark.parametrize("value", [0, 1, 97, 0x7FFFFFFF, 0xFFFFFFFF])
def test_each_word_of_the_superblock(at: int, value: int) -> None:
    image = bytearray(build(small_tree(), block_size=4096))
    struct.pack_into("<I", image, at, value)
    use(bytes(image))


def renamed(old: bytes, new: bytes) -> bytes:
    """An image of one directory of three files, one name in the stored tables replaced."""
    root = Node(DIRECTORY, 0o755)
    assert root.children is not None
    root.children.update({name: Node(REGULAR, 0o644, data=b"x") for name in (b"aa", b"bb", b"cc")})
    image = build(root, compress=stored)
    assert image.count(old) == 1 and len(old) == len(new)
    return image.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"bb", b"..", "not sorted"),
        (b"aa", b"..", "not a name"),
        (b"aa", b"/a", "not a name"),
        (b"aa", b"a\0", "not a name"),
        (b"bb", b"aa", "twice"),
        (b"bb", b"dd", "not sorted"),
    ],
)
def test_names(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        list(opened(renamed(old, new)).walk())


def test_a_directory_that_contains_itself() -> None:
    root, below = Node(DIRECTORY, 0o755), Node(DIRECTORY, 0o755)
    assert root.children is not None and below.children is not None
    root.children[b"down"] = below
    below.children[b"back"] = Node(DIRECTORY, 0o700)
    image = bytearray(build(root, compress=stored))
    found = opened(bytes(image))
    own = dict(found.children(found.root))[b"down"]
    # The entry of `back` lies 8 bytes before its name: let it point to `down`.
    struct.pack_into("<H", image, image.index(b"back") - 8, own & 0xFFFF)
    walk = opened(bytes(image)).walk()
    assert next(walk)[0] == b"down"
    with pytest.raises(InvalidImage, match="found twice"):
        next(walk)
    assert opened(bytes(image)).lookup(b"down/back/back/back/back") is not None


def patched_inode(data: bytes, form: str, skip: int, value: int) -> bytes:
    """The image of a file `f`, a field of its inode replaced: the 16 common bytes are skipped."""
    root = Node(DIRECTORY, 0o755)
    assert root.children is not None
    root.children[b"f"] = Node(REGULAR, 0o644, data=data)
    image = bytearray(build(root, block_size=4096, compress=stored))
    at = struct.unpack_from("<Q", image, 64)[0] + 2
    assert struct.unpack_from("<H", image, at)[0] == REGULAR
    struct.pack_into(form, image, at + 16 + skip, value)
    return bytes(image)


@pytest.mark.parametrize(
    ("size", "skip", "value"),
    [
        (5000, 0, 0),  # data inside the superblock
        (5000, 0, 2**32 - 1),
        (5000, 4, 7),  # a fragment that is none
        (5000, 8, 4000),  # a tail across the end of its fragment
        (5000, 8, 2**32 - 1),
        (5000, 12, 2**32 - 1),  # a size of a million blocks
        (5000, 16, 4097 | 1 << 24),  # blocks larger than the block size
        (5000, 16, 4097),
        (5000, 16, 100 | 1 << 24),  # a block too short
        (5000, 16, 2**32 - 1),
    ],
)
def test_files(size: int, skip: int, value: int) -> None:
    with pytest.raises(InvalidImage):
        of_image(patched_inode(random.Random(5).randbytes(size), "<I", skip, value))


def test_sizes_that_are_claimed_cost_nothing() -> None:
    image = opened(patched_inode(b"x" * 5000, "<I", 12, 2**32 - 1))
    found = image.lookup(b"f")
    assert found is not None and found.size == 2**32 - 1


BOMB = bytes(1 << 26)


@pytest.mark.parametrize(
    ("compressor", "bomb"),
    [
        (GZIP, zlib.compress(BOMB)),
        (XZ, lzma.compress(BOMB)),
        (LZMA, lzma.compress(BOMB, format=lzma.FORMAT_ALONE)),
        (ZSTD, zstandard.compress(BOMB)),
        (ZSTD, zstandard.ZstdCompressor(write_content_size=False).compress(BOMB)),
    ],
)
def test_decompressors_are_bounded(compressor: int, bomb: bytes) -> None:
    decompress = decompressor(compressor)
    with pytest.raises(InvalidImage, match="does not decompress"):
        decompress(bomb, 8192)
    with pytest.raises(InvalidImage):
        decompress(bomb[: len(bomb) // 2], 1 << 27)
    for damaged in (b"", b"\0", b"not compressed at all", bomb[:3]):
        with pytest.raises(InvalidImage):
            decompress(damaged, 8192)


@pytest.mark.parametrize(
    ("compressor", "compress"),
    [
        (GZIP, zlib.compress),
        (XZ, lzma.compress),
        (LZMA, lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)),
        (ZSTD, zstandard.compress),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 8191, 8192])
def test_decompressors_fill_their_place_exactly(compressor: int, compress, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert decompressor(compressor)(compress(data), 8192) == data


def test_zstd_header_that_claims_the_moon() -> None:
    # A frame header with a content size of 2**60: magic, single segment with 8 bytes of size.
    frame = struct.pack("<IBQ", 0xFD2FB528, 0b11100000, 1 << 60) + b"\1\0\0"
    with pytest.raises(InvalidImage):
        decompressor(ZSTD)(frame, 8192)


def test_unreadable_compressors_say_so() -> None:
    with pytest.raises(UnsupportedImage, match="lzo"):
        decompressor(LZO)
    with pytest.raises(InvalidImage, match="unknown compressor"):
        decompressor(7)


def test_metadata_blocks() -> None:
    def reader(data: bytes, end: int | None = None) -> MetadataReader:
        return MetadataReader(
            lambda offset, length: data[offset : offset + length], 0, len(data) if end is None else end,
            decompressor(GZIP), what="table",
        )  # fmt: skip

    whole = struct.pack("<H", 0x8000 | 8192) + bytes(8192)
    assert reader(whole).block(0) == (bytes(8192), len(whole))
    for bad in (
        b"",
        b"\1",
        struct.pack("<H", 0x8000) + b"xx",  # empty
        struct.pack("<H", 0),
        struct.pack("<H", 0x8000 | 8193) + bytes(8193),
        whole[:-1],
        struct.pack("<H", 5) + b"junk!",
    ):
        with pytest.raises(InvalidImage):
            reader(bad).block(0)
    with pytest.raises(InvalidImage):
        reader(whole).block(-1)
    with pytest.raises(InvalidImage):
        reader(whole[:-1], len(whole)).block(0)
    with pytest.raises(InvalidImage, match="outside its table"):
        reader(whole).cursor(0).read(8193)
    with pytest.raises(InvalidImage, match="beyond"):
        reader(whole).cursor(8193)


def test_gzip_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    decompress = decompressor(GZIP)
    assert decompress(zlib.compress(b"x" * 8192), 8192) == b"x" * 8192
    for bad in (zlib.compress(BOMB), zlib.compress(b"x" * 8192)[:-1], b"junk"):
        with pytest.raises(InvalidImage, match="does not decompress"):
            decompress(bad, 8192)


@pytest.mark.parametrize("module", ["zstandard", "lz4"])
def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedImage, match=module) as caught:
        decompressor(ZSTD if module == "zstandard" else LZ4)
    assert "pip install" in caught.value.hint
