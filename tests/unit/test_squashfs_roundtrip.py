"""What the writer writes, the reader reads: any tree, any block size, each compressor."""

import lzma
import random
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SOCKET, SYMLINK, Node
from hpcc.squashfs.compression import GZIP, XZ, ZSTD
from hpcc.squashfs.inode import Placement
from hpcc.squashfs.writer import encode_tables
from tests.support.squash import build, of_image, of_tree, rich_tree

names = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0")).filter(
    lambda name: name not in (b".", b"..")
)  # fmt: skip
plain_names = st.sampled_from([b"a", b"b", b"ab", b"A", b"\xff", b" ", b"a\n", b"...", b"-", b"lib", b"x" * 255])
u32 = st.integers(0, 2**32 - 1)
owners = st.sampled_from([0, 1, 1000, 65534, 2**32 - 1])
contents = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda a, b, c: bytes(a) + b + bytes(c), st.integers(0, 20000), st.binary(max_size=9), st.integers(0, 9000)
    ),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 9), st.integers(0, 13000)),
    st.sampled_from([b"q" * 4096, b"q" * 8192, bytes(8192), bytes(4097)]),
)
xattr_names = st.builds(
    lambda prefix, rest: prefix + rest,
    st.sampled_from([b"user.", b"trusted.", b"security."]),
    st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name),
)
xattrs = st.one_of(
    st.just({}), st.dictionaries(xattr_names, st.binary(max_size=50), max_size=3), st.just({b"user.big": b"v" * 20000})
).map(lambda pairs: tuple(sorted(pairs.items())))


@st.composite
def trees(draw: st.DrawFn) -> Node:
    def node(kind: int) -> Node:
        return Node(
            kind, draw(st.integers(0, 0o7777)), draw(owners), draw(owners), draw(u32), xattrs=draw(xattrs),
            target=draw(st.binary(min_size=1, max_size=300)).replace(b"\0", b"0") if kind == SYMLINK else b"",
            rdev=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))) if kind in (BLOCK, CHAR) else (0, 0),
            data=draw(contents) if kind == REGULAR else None,
        )  # fmt: skip

    root = node(DIRECTORY)
    directories, others = [root], []
    for _ in range(draw(st.integers(0, 25))):
        children = draw(st.sampled_from(directories)).children
        name = draw(st.one_of(names, plain_names))
        if children is None or name in children:
            continue
        if others and draw(st.integers(0, 4)) == 0:
            children[name] = draw(st.sampled_from(others))
            continue
        made = children[name] = node(
            draw(st.sampled_from([DIRECTORY, REGULAR, REGULAR, SYMLINK, BLOCK, CHAR, FIFO, SOCKET]))
        )
        (directories if made.kind == DIRECTORY else others).append(made)
    return root


@settings(max_examples=150, deadline=None)
@given(trees(), st.sampled_from([4096, 8192]), st.booleans())
def test_any_tree_comes_back(root: Node, block_size: int, fragments: bool) -> None:
    assert of_image(build(root, block_size=block_size, fragments=fragments)) == of_tree(root)


def zstd(data: bytes) -> bytes:
    return zstandard.compress(data, 3)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)


@pytest.mark.parametrize(("compressor", "compress"), [(GZIP, zlib.compress), (ZSTD, zstd), (XZ, xz)])
def test_each_compressor(compressor: int, compress) -> None:
    root = rich_tree()
    assert of_image(build(root, compressor=compressor, compress=compress)) == of_tree(root)


def test_incompressible_metadata_is_stored() -> None:
    root = rich_tree()
    image = build(root, compress=lambda data: data)
    assert of_image(image) == of_tree(root)
    assert b"security" not in image and b"note" in image


def test_the_order_in_which_a_tree_was_made_does_not_count() -> None:
    def turned(node: Node, seed: random.Random) -> Node:
        for each in [found for _, found in node.walk()]:
            if each.children:
                items = sorted(each.children.items())
                seed.shuffle(items)
                each.children.clear()
                each.children.update(items)
        return node

    first = rich_tree()
    # Data is placed in the order of the walk, which is the test's business; tables are the writer's.
    for _, node in first.walk():
        if node.kind == REGULAR:
            node.data = Placement(0)
    one = encode_tables(first, [], data_end=96, compressor=GZIP, compress=zlib.compress)
    for seed in range(5):
        turned(first, random.Random(seed))
        assert encode_tables(first, [], data_end=96, compressor=GZIP, compress=zlib.compress) == one
