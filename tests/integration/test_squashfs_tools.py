"""SquashFS against its other implementations: the kernel, squashfs-tools, squashfuse. And our own FUSE server."""

import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcc.compressors import make_compressor
from hpcc.errors import UnsupportedImage
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK, Node
from hpcc.runtime.fuse import start_server
from hpcc.runtime.serve import Server, serve
from hpcc.squashfs.compression import GZIP
from hpcc.squashfs.fragment import Fragment
from hpcc.squashfs.inode import STORED as STORED_BLOCK
from hpcc.squashfs.inode import Placement
from hpcc.squashfs.reader import open_squashfs
from hpcc.squashfs.writer import encode_tables
from tests.support.layers import archive, convert, file, sparse, squashfs_of
from tests.support.real import need
from tests.support.squash import Tree, build, of_directory, of_image, of_tree, opened, rich_tree

Mount = Callable[[Path, Path], AbstractContextManager[bytes]]

COMPRESSIONS = ["gzip", "gzip:1", "gzip:9", "zstd", "zstd:19", "lz4", "xz", "stored"]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[bytes]:
    """Mount by the kernel; a skip where it has no SquashFS or no loop device."""
    at.mkdir()
    if "squashfs" not in Path("/proc/filesystems").read_text() or not Path("/dev/loop-control").exists():
        pytest.skip("this kernel cannot mount SquashFS")
    run(need("mount"), "-t", "squashfs", "-o", "loop,ro", image, at)
    try:
        yield os.fsencode(at)
    finally:
        run(need("umount"), at)


@contextmanager
def fuse_mounted(image: Path, at: Path) -> Iterator[bytes]:
    """Mount by squashfuse; a skip where there is no FUSE."""
    program = need("squashfuse_ll")
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    at.mkdir()
    run(program, image, at)
    try:
        yield os.fsencode(at)
    finally:
        run(need("umount"), at)


@contextmanager
def served(image: Path, at: Path) -> Iterator[bytes]:
    """Mount by our own server; a skip where there is no FUSE."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    at.mkdir()
    fd = os.open(image, os.O_RDONLY)
    found = open_squashfs(lambda offset, length: os.pread(fd, length, offset), image.stat().st_size)
    start_server(lambda fuse: serve(fuse, Server(found, None)), (fd,)).mount(str(at), readonly=True)
    os.close(fd)
    try:
        yield os.fsencode(at)
    finally:
        run(need("umount"), at)


@pytest.fixture(params=COMPRESSIONS)
def rich_image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "stored":
        compressor, compress = GZIP, bytes
    else:
        _, compressor, compress = make_compressor(request.param)
    path = tmp_path / "rich.squashfs"
    path.write_bytes(build(rich_tree(), compressor=compressor, compress=compress))
    return path


def large_tree() -> Node:
    """A directory of 70,000 entries beside 3,000 directories, a deep path, and 71 xattr sets."""
    root = Node(DIRECTORY, 0o755)
    assert root.children is not None
    big = root.children[b"big"] = Node(DIRECTORY, 0o755)
    many = root.children[b"many"] = Node(DIRECTORY, 0o755)
    deep = root.children[b"deep"] = Node(DIRECTORY, 0o755)
    assert big.children is not None and many.children is not None
    for number in range(70000):
        note = ((b"user.n", b"%d" % (number // 1000)),) if number % 1000 == 0 else ()
        big.children[b"entry-%06d" % number] = Node(REGULAR, 0o644, number % 500, data=b"%d" % number, xattrs=note)
    for number in range(3000):
        sub = many.children[b"d%d" % number] = Node(DIRECTORY, 0o755)
        assert sub.children is not None
        sub.children[b"link"] = Node(SYMLINK, 0o777, target=b"../../big/entry-%06d" % number)
    for _ in range(200):
        assert deep.children is not None
        deep.children[b"d"] = deep = Node(DIRECTORY, 0o755)
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tree]:
    root = large_tree()
    path = tmp_path_factory.mktemp("large") / "large.squashfs"
    path.write_bytes(build(root))
    return path, of_tree(root)


@pytest.mark.root
def test_unsquashfs_extracts_the_same_tree(rich_image: Path, tmp_path: Path) -> None:
    run(need("unsquashfs"), "-quiet", "-no-progress", "-d", tmp_path / "out", rich_image)
    assert of_directory(os.fsencode(tmp_path / "out")) == of_tree(rich_tree())


def test_unsquashfs_lists_the_same_tree(rich_image: Path) -> None:
    lines = run(need("unsquashfs"), "-lln", "-UTC", "-d", "", rich_image).splitlines()
    found = {line.split(" -> ")[0].rsplit(":", 1)[-1][3:] for line in lines if line[:1] in "dlcbps-"}
    wanted = {"/" + os.fsdecode(path) for path in of_tree(rich_tree()) if path and b"\n" not in path}
    assert wanted <= found
    suid = next(line for line in lines if line.endswith(" /a-first"))
    assert suid.split()[:3] == ["-rwsr-xr-x", "4000000000/4000000001", "4000"]
    assert any(line.startswith("crw-rw-rw- 0/0") and line.endswith(" /etc/null") and "1,  3" in line for line in lines)


def test_unsquashfs_reads_the_superblock(rich_image: Path) -> None:
    said = run(need("unsquashfs"), "-stat", rich_image)
    assert "Number of inodes 21" in said and "Number of ids 10" in said and "Number of xattr ids 5" in said
    assert "Filesystem is exportable via NFS" in said


@pytest.mark.root
def test_the_kernel_shows_the_same_tree(rich_image: Path, tmp_path: Path) -> None:
    with mounted(rich_image, tmp_path / "mnt") as top:
        assert of_directory(top) == of_tree(rich_tree())


@pytest.mark.root
def test_squashfuse_shows_the_same_tree(rich_image: Path, tmp_path: Path) -> None:
    with fuse_mounted(rich_image, tmp_path / "mnt") as top:
        # Not the attributes: squashfuse lists those of links that it then denies, and up to 0.1.105 it takes
        # trusted. for security. and the other way round.
        found = of_directory(top, xattrs=False)
    assert found == {path: entry[:-1] for path, entry in of_tree(rich_tree()).items()}


@pytest.mark.root
def test_our_server_shows_the_same_tree(rich_image: Path, tmp_path: Path) -> None:
    wanted = of_tree(rich_tree())
    etc = wanted[b"etc"]
    wanted[b"etc"] = (*etc[:-1], ((b"user.dir", b""),))  # what would tell an overlay of ours what to do is hidden
    with served(rich_image, tmp_path / "mnt") as top:
        for _ in range(2):  # from the server, then out of the kernel's memory
            assert of_directory(top) == wanted
            assert not os.path.exists(top + b"/none") and not os.path.exists(top + b"/etc/none")
        room = os.statvfs(top)
        assert room.f_files == 21 and room.f_bavail == 0
        assert room.f_blocks * room.f_frsize >= len(rich_image.read_bytes()) // 4096 * 4096 - 131072


@pytest.mark.root
@pytest.mark.parametrize("way", [mounted, served])
def test_large_directories(large: tuple[Path, Tree], tmp_path: Path, way: Mount) -> None:
    image, tree = large
    with way(image, tmp_path / "mnt") as top:
        big = top + b"/big"
        assert sorted(os.listdir(big)) == [b"entry-%06d" % number for number in range(70000)]
        for number in range(0, 70000, 37):
            path = b"big/entry-%06d" % number
            with open(os.path.join(top, path), "rb") as file:
                assert file.read() == tree[path][8]
            assert os.stat(os.path.join(top, path)).st_uid == number % 500
        assert os.getxattr(big + b"/entry-069000", "user.n") == b"69"
        assert not os.path.exists(big + b"/entry-") and not os.path.exists(big + b"/f")
        for number in range(0, 3000, 100):
            with open(top + b"/many/d%d/link" % number, "rb") as file:
                assert file.read() == b"%d" % number
        assert len(of_directory(top + b"/deep")) == 201


@pytest.mark.root
def test_unsquashfs_extracts_large_directories(large: tuple[Path, Tree], tmp_path: Path) -> None:
    image, tree = large
    run(need("unsquashfs"), "-quiet", "-no-progress", "-d", tmp_path / "out", image)
    assert of_directory(os.fsencode(tmp_path / "out")) == tree


# -- beyond 4 GiB ------------------------------------------------------------------------------------------------

GIB = 1 << 30
PIECES = [(0, 5), (4 * GIB - 3, 6), (5 * GIB, 200_000), (6 * GIB + 1, 9)]  # of a file of 6 GiB + 10
STORED = b"".join(bytes([65 + index]) * length for index, (_, length) in enumerate(PIECES))


def check_large(read: Callable[[int, int], bytes], size: int) -> None:
    """`read(offset, length)` shows the file of PIECES, of which the rest is holes."""
    assert size == 6 * GIB + 10
    for index, (offset, length) in enumerate(PIECES):
        before, after = min(offset, 10), min(size - offset - length, 10)
        around = bytes(before) + bytes([65 + index]) * length + bytes(after)
        assert read(offset - before, len(around)) == around
    for offset in (1 * GIB, 4 * GIB + 1000, size - 200_000):
        assert not any(read(offset, 100_000))
    assert read(size - 1, 100) == b"D" and read(size, 100) == b""


def check_large_file(path: bytes) -> None:
    with open(path, "rb") as file:
        check_large(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with the file `s` of PIECES, from a sparse member of a layer on the whole way of a conversion."""
    path = tmp_path_factory.mktemp("large-file") / "image"
    path.write_bytes(squashfs_of(convert([archive(sparse("1.0", PIECES, STORED, 6 * GIB + 10), file(b"t", b"tail"))])))
    assert path.stat().st_size < 1 << 20
    return path


def test_we_read_a_file_beyond_4_gib(large_file: Path) -> None:
    image = opened(large_file.read_bytes())
    found = image.lookup(b"s")
    assert found is not None and found.size == 6 * GIB + 10
    zeros = bytes(131072)
    wanted = {offset // 131072 for offset, _ in PIECES}
    blocks = {at: block for at, block in enumerate(image.read(found)) if at in wanted or block != zeros}
    assert sorted(blocks) == sorted({*wanted, (4 * GIB + 2) // 131072, (5 * GIB + 199_999) // 131072})

    def read(offset: int, length: int) -> bytes:
        first, last = offset // 131072, (offset + length) // 131072
        joined = b"".join(blocks.get(at, bytes(131072)) for at in range(first, last + 1))
        return joined[offset % 131072 :][: max(0, min(length, found.size - offset))]

    check_large(read, found.size)


@pytest.mark.root
def test_the_kernel_reads_a_file_beyond_4_gib(large_file: Path, tmp_path: Path) -> None:
    with mounted(large_file, tmp_path / "mnt") as top:
        check_large_file(top + b"/s")


@pytest.mark.root
@pytest.mark.parametrize("way", [fuse_mounted, served])
def test_fuse_reads_a_file_beyond_4_gib(large_file: Path, tmp_path: Path, way: Mount) -> None:
    with way(large_file, tmp_path / "mnt") as top:
        check_large_file(top + b"/s")


def test_unsquashfs_extracts_a_file_beyond_4_gib(large_file: Path, tmp_path: Path) -> None:
    run(need("unsquashfs"), "-quiet", "-no-progress", "-d", tmp_path / "out", large_file, "s")
    check_large_file(os.fsencode(tmp_path / "out" / "s"))
    assert (tmp_path / "out" / "s").stat().st_blocks * 512 < 1 << 20


@pytest.fixture(scope="module")
def far_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 5 GiB, nearly all of it a hole on disk: data, a fragment and all tables lie beyond 4 GiB."""
    path = tmp_path_factory.mktemp("far") / "image"
    start = 5 * GIB
    block, tail = bytes(range(256)) * 512, b"the tail"
    root = Node(DIRECTORY, 0o755)
    assert root.children is not None
    root.children[b"block"] = Node(REGULAR, 0o644, data=Placement(131072, start, (131072 | STORED_BLOCK,)))
    root.children[b"tail"] = Node(REGULAR, 0o644, 7, data=Placement(8, fragment=0))
    fragments = [Fragment(start + 131072, 8 | STORED_BLOCK)]
    made = encode_tables(root, fragments, data_end=start + 131080, compressor=GZIP, compress=zlib.compress)
    with path.open("wb") as file:
        file.write(made.head)
        file.seek(start)
        file.write(block + tail + made.tables)
    assert path.stat().st_blocks * 512 < 1 << 20
    return path


def check_far(top: bytes) -> None:
    tree = of_directory(top, xattrs=False)
    assert sorted(tree) == [b"", b"block", b"tail"]
    assert (tree[b"block"][8], tree[b"tail"][8], tree[b"tail"][2]) == (bytes(range(256)) * 512, b"the tail", 7)


def test_we_read_an_image_beyond_4_gib(far_image: Path) -> None:
    with far_image.open("rb") as source:
        found = open_squashfs(
            lambda offset, length: os.pread(source.fileno(), length, offset), far_image.stat().st_size
        )
        content = {path: b"".join(found.read(inode)) for path, inode in found.walk()}
    assert content == {b"block": bytes(range(256)) * 512, b"tail": b"the tail"}


@pytest.mark.root
@pytest.mark.parametrize("mount", [mounted, fuse_mounted, served])
def test_others_mount_an_image_beyond_4_gib(mount: Callable[..., Any], far_image: Path, tmp_path: Path) -> None:
    with mount(far_image, tmp_path / "mnt") as top:
        check_far(top)


@pytest.mark.root
def test_unsquashfs_extracts_an_image_beyond_4_gib(far_image: Path, tmp_path: Path) -> None:
    run(need("unsquashfs"), "-quiet", "-no-progress", "-d", tmp_path / "out", far_image)
    check_far(os.fsencode(tmp_path / "out"))


# -- what others write -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for mksquashfs: it shares equal values of xattrs, which our writer does not."""
    top = tmp_path_factory.mktemp("sources") / "top"
    (top / "sub" / "many").mkdir(parents=True)
    (top / "data").write_bytes(bytes(range(256)) * 3000 + bytes(1 << 20) + b"end")
    (top / "noise").write_bytes(os.urandom(300_000))
    (top / "sub" / "tail").write_bytes(b"tail")
    (top / "sub" / "empty").write_bytes(b"")
    (top / "sub" / "link").symlink_to("../data")
    os.link(top / "data", top / "sub" / "hard")
    os.mkfifo(top / "fifo")
    for number in range(3000):
        (top / "sub" / "many" / f"file-{number}").write_text(str(number))
    for name in ("data", "noise", "sub/tail", "sub"):
        try:
            os.setxattr(top / name, "user.same", b"a value that is long enough to share" * 9)
            os.setxattr(top / name, "user.own", name.encode())
        except OSError:
            pytest.skip(f"no user attributes on the filesystem of {top}")
    for path in [top, *top.rglob("*")]:
        os.utime(path, (1600000000, 1600000000), follow_symlinks=False)
    return top


@pytest.mark.parametrize("options", [[], ["-no-fragments"], ["-always-use-fragments", "-b", "4096"], ["-noI", "-noD"]])
@pytest.mark.parametrize("name", ["gzip", "xz", "zstd", "lzma", "lz4"])
def test_we_read_what_mksquashfs_writes(name: str, options: list[str], sources: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    run(need("mksquashfs"), sources, image, "-quiet", "-no-progress", "-comp", name, *options)
    data = image.read_bytes()
    if name == "lz4":
        try:
            import lz4.block  # noqa: F401
        except ImportError:
            with pytest.raises(UnsupportedImage, match="lz4"):
                of_image(data)
            return
    assert of_image(data) == of_directory(os.fsencode(sources))


def test_lzo_is_refused(sources: Path, tmp_path: Path) -> None:
    run(need("mksquashfs"), sources, tmp_path / "image", "-quiet", "-no-progress", "-comp", "lzo")
    with pytest.raises(UnsupportedImage, match="lzo"):
        of_image((tmp_path / "image").read_bytes())


def test_look_up_in_a_file_inside_a_file(sources: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    run(need("mksquashfs"), sources, image, "-quiet", "-no-progress")
    size = image.stat().st_size
    image.write_bytes(bytes(4096) + image.read_bytes() + b"more")
    with image.open("rb") as file:
        found = open_squashfs(lambda offset, length: os.pread(file.fileno(), length, 4096 + offset), size)
        inode = found.lookup(b"sub/many/file-2999")
        assert inode is not None and b"".join(found.read(inode)) == b"2999"
        link, data = found.lookup(b"/sub/link"), found.lookup(b"data")
        assert link == data and data is not None and data.nlink == 2
