"""Our FUSE server, asked by hand: what it answers, what it remembers, and that no image brings it down."""

import errno
import os
import random
import stat
import struct
import zlib
from collections.abc import Iterator

import pytest

from hpcc.fstree import DIRECTORY, REGULAR, Node
from hpcc.runtime import fuse_protocol as fuse
from hpcc.runtime.serve import Server
from hpcc.squashfs.reader import SquashFS
from tests.support.squash import build, opened, rich_tree

NEW = fuse.ASYNC_READ | fuse.DO_READDIRPLUS | fuse.READDIRPLUS_AUTO | fuse.NO_OPEN | fuse.NO_OPENDIR
ATTR = struct.Struct("=6Q10I")
ENTRY = struct.Struct("=4Q2I")


def started(image: SquashFS, flags: int = NEW, owner: tuple[int, int] | None = None) -> Server:
    server = Server(image, owner)
    result = server.answer(fuse.INIT, 0, struct.pack("=4I", 7, 45, 131072, flags | 1 << 30) + bytes(48))
    assert isinstance(result, bytes) and len(result) == 64
    major, minor, readahead, chosen = struct.unpack_from("=4I", result)
    assert (major, minor, readahead, chosen) == (7, 31, 131072, flags)
    return server


def look_up(server: Server, *names: bytes) -> tuple[int, tuple[int, ...]]:
    """(node, attr) of a path; node 0 where it does not exist."""
    node, attr = fuse.ROOT, ()
    for name in names:
        result = server.answer(fuse.LOOKUP, node, name + b"\0")
        assert isinstance(result, bytes) and len(result) == ENTRY.size + ATTR.size
        node, _, name_holds, attr_holds, _, _ = ENTRY.unpack_from(result)
        assert name_holds >= 1 << 31 and (attr_holds >= 1 << 31 or not node)
        attr = ATTR.unpack_from(result, ENTRY.size)
    return node, attr


def listing(server: Server, node: int, room: int, opcode: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, ino, type) of each item, asked for in buffers of `room` bytes."""
    offset = 0
    while True:
        result = server.answer(opcode, node, struct.pack("=QQII", 0, offset, room, 0) + bytes(16))
        assert isinstance(result, bytes) and len(result) <= room
        if not result:
            return
        at = 0
        while at < len(result):
            at += ENTRY.size + ATTR.size if opcode == fuse.READDIRPLUS else 0
            ino, offset, length, kind = struct.unpack_from("=2Q2I", result, at)
            yield result[at + 24 : at + 24 + length], ino, kind
            at += 24 + length + -length % 8


@pytest.fixture
def rich() -> SquashFS:
    return opened(build(rich_tree()))


def test_attributes(rich: SquashFS) -> None:
    _, attr = look_up(started(rich), b"etc")
    assert attr[9] == stat.S_IFDIR | 0o2750 and attr[11:13] == (10, 20) and attr[3] == 1600000001
    _, attr = look_up(started(rich, owner=(1000, 1001)), b"etc", b"z-third")
    assert attr[9:13] == (stat.S_IFREG | 0o4755, 3, 1000, 1001) and attr[1] == 4000
    _, attr = look_up(started(rich), b"etc", b"disk")
    assert stat.S_ISBLK(attr[9]) and attr[13] == 70000 & 0xFF | 259 << 8 | (70000 & ~0xFF) << 12


def test_a_name_that_does_not_exist_is_remembered(rich: SquashFS) -> None:
    assert look_up(started(rich), b"etc", b"none")[0] == 0


def test_reading_anywhere(rich: SquashFS) -> None:
    server = started(rich)
    for name in (b"blocks", b"exact", b"sparse", b"hole", b"noise", b"small", b"nothing"):
        node, attr = look_up(server, b"etc", name)
        inode = rich.lookup(b"etc/" + name)
        assert inode is not None and attr[1] == inode.size
        whole = b"".join(rich.read(inode))
        for offset, size in ((0, 10), (0, 1 << 20), (131070, 4), (131072, 131072), (len(whole) - 3, 10), (1 << 40, 5)):
            offset = max(0, offset)
            asked = struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0)
            assert server.answer(fuse.READ, node, asked) == whole[offset : offset + size], (name, offset, size)


@pytest.mark.parametrize("opcode", [fuse.READDIR, fuse.READDIRPLUS])
@pytest.mark.parametrize("room", [300, 4096, 1 << 20])
def test_listings(rich: SquashFS, room: int, opcode: int) -> None:
    server = started(rich)
    node, attr = look_up(server, b"etc")
    found = list(listing(server, node, room, opcode))
    assert [name for name, _, _ in found[:2]] == [b".", b".."] and found[0][1:] == (attr[0], 4)
    wanted = {name: rich.inode(ref) for name, ref in rich.children(rich.lookup(b"etc"))}  # type: ignore[arg-type]
    assert [name for name, _, _ in found[2:]] == list(wanted)
    for name, ino, kind in found[2:]:
        assert ino == wanted[name].number
        assert stat.S_ISDIR(kind << 12) == (wanted[name].kind == DIRECTORY)
        assert stat.S_ISREG(kind << 12) == (wanted[name].kind == REGULAR)


def test_two_walks_of_a_large_directory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Node(DIRECTORY, 0o755)
    assert root.children is not None
    names = [b"%06d" % number for number in range(9000)]  # more than is held
    root.children |= {name: Node(REGULAR, 0o644, data=b"") for name in names}
    image = opened(build(root))
    begun = []
    children = SquashFS.children

    def counted(self: SquashFS, inode: object) -> object:
        begun.append(1)
        return children(self, inode)  # type: ignore[arg-type]

    monkeypatch.setattr(SquashFS, "children", counted)
    server = started(image)
    one, other = (listing(server, fuse.ROOT, 4096, fuse.READDIR) for _ in range(2))
    found = list(zip(one, other, strict=True))
    assert [first[0] for first, _ in found[2:]] == names == [second[0] for _, second in found[2:]]
    assert len(begun) < 10, "each piece began from the start"
    # Somebody who goes back is served as well, and a name is found without the whole.
    assert [name for name, _, _ in listing(server, fuse.ROOT, 4096, fuse.READDIR)][2:] == names
    assert look_up(server, b"008999")[0] and not look_up(server, b"008999x")[0]


def test_links_and_attributes(rich: SquashFS) -> None:
    server = started(rich)
    node, _ = look_up(server, b"etc", b"link")
    assert server.answer(fuse.READLINK, node, b"") == b"../usr/lib"
    assert server.answer(fuse.READLINK, fuse.ROOT, b"") == errno.EINVAL
    node, _ = look_up(server, b"a-first")
    ask = struct.pack("=II", 4096, 0)
    assert server.answer(fuse.LISTXATTR, node, ask) == b"security.note\0user.long\0"
    assert server.answer(fuse.LISTXATTR, node, bytes(8)) == struct.pack("=II", 24, 0)
    assert server.answer(fuse.GETXATTR, node, ask + b"user.long\0") == b"v" * 3000
    assert server.answer(fuse.GETXATTR, node, struct.pack("=II", 10, 0) + b"user.long\0") == errno.ERANGE
    assert server.answer(fuse.GETXATTR, node, ask + b"user.none\0") == errno.ENODATA
    plain = opened(build(Node(DIRECTORY, 0o755)))
    assert started(plain).answer(fuse.GETXATTR, fuse.ROOT, ask + b"user.a\0") == errno.ENOSYS


def test_an_overlay_is_told_nothing(rich: SquashFS) -> None:
    server = started(rich)
    node, _ = look_up(server, b"etc")
    ask = struct.pack("=II", 4096, 0)
    assert server.answer(fuse.LISTXATTR, node, ask) == b"user.dir\0"
    assert server.answer(fuse.GETXATTR, node, ask + b"trusted.overlay.opaque\0") == errno.ENODATA
    layer = Server(rich, None, is_layer=True)
    assert layer.answer(fuse.GETXATTR, node, ask + b"trusted.overlay.opaque\0") == b"y"


def test_opening_is_no_question_where_the_kernel_allows_it(rich: SquashFS) -> None:
    server = started(rich)
    assert server.answer(fuse.OPEN, fuse.ROOT, bytes(8)) == errno.ENOSYS
    assert server.answer(fuse.OPENDIR, fuse.ROOT, bytes(8)) == errno.ENOSYS
    old = started(rich, fuse.ASYNC_READ)
    assert old.answer(fuse.OPEN, fuse.ROOT, bytes(8)) == struct.pack("=QII", 0, fuse.KEEP_CACHE, 0)
    assert old.answer(fuse.OPENDIR, fuse.ROOT, bytes(8)) == struct.pack("=QII", 0, fuse.KEEP_CACHE | fuse.CACHE_DIR, 0)
    assert Server(rich, None).answer(fuse.INIT, 0, struct.pack("=4I", 7, 12, 0, 0)) == errno.EPROTO


def test_what_is_not_there(rich: SquashFS) -> None:
    server = started(rich)
    node, _ = look_up(server, b"a-first")
    assert server.answer(fuse.LOOKUP, node, b"x\0") == errno.ENOTDIR
    assert server.answer(fuse.READ, fuse.ROOT, bytes(40)) == errno.EISDIR
    assert server.answer(fuse.GETATTR, 1 << 60, bytes(16)) == errno.EIO
    assert server.answer(9999, node, b"") == errno.ENOSYS
    assert server.answer(fuse.FORGET, node, bytes(8)) is None


@pytest.mark.parametrize("seed", range(20))
def test_no_image_and_no_request_brings_it_down(seed: int) -> None:
    generator = random.Random(seed)
    data = bytearray(build(rich_tree(), block_size=4096, compress=(bytes if seed % 2 else zlib.compress)))
    used = struct.unpack_from("<Q", data, 40)[0]
    for _ in range(seed * 3):
        data[generator.randrange(96, used)] = generator.randrange(256)
    server = started(opened(bytes(data)))
    nodes = [fuse.ROOT]
    for _ in range(400):
        node = generator.choice([*nodes, generator.randrange(1 << 40)])
        opcode = generator.choice([*range(1, 52), fuse.LOOKUP, fuse.READ, fuse.READDIRPLUS])
        arguments = generator.choice([
            generator.choice([b"etc", b"a-first", b"blocks", b"empty", os.urandom(5)]) + b"\0",
            struct.pack("=QQIIQII", 0, generator.randrange(1 << 20), generator.randrange(1 << 17), 0, 0, 0, 0),
            struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0),
            os.urandom(generator.randrange(60)),
        ])  # fmt: skip
        result = server.answer(opcode, node, arguments)
        assert result is None or isinstance(result, bytes) or 0 < result < 4096
        if opcode == fuse.LOOKUP and isinstance(result, bytes) and result != fuse.NO_ENTRY:
            nodes.append(ENTRY.unpack_from(result)[0])
