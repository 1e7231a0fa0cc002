"""Look-up inside the image's root, and reading parts."""

import zlib

import pytest

from hpcc.errors import InvalidImage
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK, Node
from hpcc.squashfs.reader import SquashFS, open_squashfs
from tests.support.squash import build, opened, rich_tree


def link(target: bytes) -> Node:
    return Node(SYMLINK, 0o777, target=target)


def put(root: Node, path: bytes, node: Node) -> None:
    *above, name = path.split(b"/")
    for part in above:
        assert root.children is not None
        root = root.children.setdefault(part, Node(DIRECTORY, 0o755))
    assert root.children is not None
    root.children[name] = node


@pytest.fixture(scope="module")
def image() -> SquashFS:
    root = Node(DIRECTORY, 0o755)
    for path, text in [(b"etc/passwd", b"root"), (b"usr/bin/sh", b"elf"), (b"a/b/c/file", b"deep")]:
        put(root, path, Node(REGULAR, 0o644, data=text))
    for path, target in [
        (b"bin", b"usr/bin"),
        (b"out", b"/../../../etc/passwd"),
        (b"a/up", b"../../../../etc"),
        (b"a/b/rel", b"../b/./c//file"),
        (b"loop", b"loop"),
        (b"ping", b"pong"),
        (b"pong", b"ping"),
        (b"dangling", b"nowhere"),
        (b"absolute", b"/"),
        (b"a/self", b"."),
        (b"filelink", b"etc/passwd"),
        (b"slash", b"etc/passwd/"),
    ]:
        put(root, path, link(target))
    for number in range(50):
        put(root, b"chain%d" % number, link(b"chain%d" % (number + 1)))
    put(root, b"chain50", Node(REGULAR, 0o644, data=b"end"))
    return opened(build(root))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"etc/passwd", b"root"),
        (b"/etc/passwd", b"root"),
        (b"//etc/./passwd", b"root"),
        (b"../../etc/passwd", b"root"),
        (b"etc/../../etc/passwd", b"root"),
        (b"bin/sh", b"elf"),
        (b"bin/../../etc/passwd", b"root"),
        (b"bin/../etc/passwd", None),
        (b"bin/../bin/sh", b"elf"),
        (b"out", b"root"),
        (b"a/up/passwd", b"root"),
        (b"a/b/rel", b"deep"),
        (b"a/self/self/b/rel", b"deep"),
        (b"absolute/absolute/etc/passwd", b"root"),
        (b"chain10", b"end"),
        (b"chain9", None),
        (b"loop", None),
        (b"ping", None),
        (b"dangling", None),
        (b"etc/passwd/", None),
        (b"etc/passwd/.", None),
        (b"etc/passwd/..", None),
        (b"filelink/x", None),
        (b"filelink/", None),
        (b"slash", None),
        (b"etc/passwd/x", None),
        (b"etc/nothing", None),
        (b"etc/passw", None),
        (b"etc/passwdd", None),
    ],
)
def test_lookup(image: SquashFS, path: bytes, text: bytes | None) -> None:
    # `bin` is a link to usr/bin, so that bin/.. is usr: as in a kernel, not as in a string.
    found = image.lookup(path)
    if text is None:
        assert found is None
    else:
        assert found is not None and b"".join(image.read(found)) == text


def test_lookup_without_following(image: SquashFS) -> None:
    for path, target in [(b"bin", b"usr/bin"), (b"loop", b"loop"), (b"a/self/up", b"../../../../etc")]:
        found = image.lookup(path, follow=False)
        assert found is not None and (found.kind, found.target) == (SYMLINK, target)
    found = image.lookup(b"bin/", follow=False)
    assert found is not None and found.kind == DIRECTORY
    for root in (b"", b"/", b"..", b"absolute", b"a/.."):
        assert image.lookup(root) == image.root


def test_walk_yields_parents_first_in_byte_order(image: SquashFS) -> None:
    paths = [path for path, _ in image.walk()]
    assert len(set(paths)) == len(paths)
    for path in paths:
        above = path.rpartition(b"/")[0]
        assert not above or paths.index(above) < paths.index(path)
    assert [path for path in paths if path.startswith(b"a/")] == [
        b"a/b", b"a/b/c", b"a/b/c/file", b"a/b/rel", b"a/self", b"a/up",
    ]  # fmt: skip


def test_read_gives_blocks_and_keeps_holes() -> None:
    data = bytes(4096 * 3) + bytes(range(256)) * 40 + b"tail"
    root = Node(DIRECTORY, 0o755)
    put(root, b"f", Node(REGULAR, 0o644, data=data))
    image = opened(build(root, block_size=4096))
    found = image.lookup(b"f")
    assert found is not None and found.sparse == 4096 * 3
    chunks = list(image.read(found))
    assert b"".join(chunks) == data and all(0 < len(chunk) <= 4096 for chunk in chunks)


def test_wrong_kinds(image: SquashFS) -> None:
    passwd = image.lookup(b"etc/passwd")
    assert passwd is not None
    with pytest.raises(NotADirectoryError):
        image.children(passwd)
    with pytest.raises(IsADirectoryError):
        next(image.read(image.root))


def test_opening_reads_the_superblock_alone() -> None:
    data = build(rich_tree())
    reads = []

    def read_at(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return data[offset : offset + length]

    image = open_squashfs(read_at, len(data))
    assert reads == [(0, 96)]
    assert image.ids() == tuple(sorted({0, 1, 2, 5, 6, 10, 20, 70000, 4000000000, 4000000001}))
    assert len(reads) == 4  # the index, a block's length, the block


def test_what_is_no_image() -> None:
    data = build(rich_tree())
    for wrong in (b"", data[:95], b"\x7fELF" + data[4:], zlib.compress(data)):
        with pytest.raises(InvalidImage):
            opened(wrong)
