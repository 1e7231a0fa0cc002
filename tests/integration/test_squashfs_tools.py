"""SquashFS against its other implementations: the kernel, squashfs-tools, squashfuse."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcc.compressors import make_compressor
from hpcc.errors import UnsupportedImage
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK, Node
from hpcc.squashfs.compression import GZIP
from hpcc.squashfs.reader import open_squashfs
from tests.support.real import need
from tests.support.squash import Tree, build, of_directory, of_image, of_tree, rich_tree

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
    program = need("squashfuse_ll")
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    (tmp_path / "mnt").mkdir()
    run(program, rich_image, tmp_path / "mnt")
    try:
        # Not the attributes: squashfuse lists those of links that it then denies, and up to 0.1.105 it takes
        # trusted. for security. and the other way round.
        found = of_directory(os.fsencode(tmp_path / "mnt"), xattrs=False)
    finally:
        run(need("umount"), tmp_path / "mnt")
    assert found == {path: entry[:-1] for path, entry in of_tree(rich_tree()).items()}


@pytest.mark.root
def test_the_kernel_reads_large_directories(large: tuple[Path, Tree], tmp_path: Path) -> None:
    image, tree = large
    with mounted(image, tmp_path / "mnt") as top:
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
