"""From layers to a SIF: read back by our reader and by unsquashfs, byte for byte, and the same bytes each time."""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc import metadata
from hpcc.compressors import BLOCK_SIZE, make_compressor
from hpcc.convert import OpenPack, assemble, convert_layer, copy_range, pack_name
from hpcc.errors import IntegrityError, InvalidImage
from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, Node
from hpcc.oci import layer
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.pack import read_pack
from hpcc.sif import descriptor
from hpcc.sif.load import load
from hpcc.squashfs.reader import SquashFS, open_squashfs
from tests.support.layers import (
    ORIGIN,
    archive,
    assembled,
    convert,
    directory,
    entries,
    file,
    hardlink,
    image_config,
    io_chunks,
    other,
    squashfs_of,
    symlink,
)
from tests.support.people import Person
from tests.support.pulls import call_as
from tests.support.real import need
from tests.support.squash import of_directory, of_image, of_tree

ROOT = Path(__file__).resolve().parents[2]
XATTR = b"SCHILY.xattr."
NOISE = random.Random(5).randbytes(4 * BLOCK_SIZE)
TEXT = b"".join(b"a line of text, number %d\n" % index for index in range(20_000))

LOWER = [
    directory(b".", mode=0o755, mtime=1),
    directory(b"etc", mtime=2, extended={XATTR + b"user.dir": b"\0\1"}),
    file(b"etc/passwd", b"root:x:0:0\n", mtime=3),
    file(b"etc/shadow", b"root:*\n", mode=0o640, gid=42, mtime=4),
    directory(b"usr/lib", mode=0o755),
    file(b"usr/lib/big", NOISE[: 2 * BLOCK_SIZE + 5], mtime=5),
    file(b"usr/lib/text", TEXT, uid=1000, gid=50, mtime=2_000_00000),
    file(b"usr/lib/hole", bytes(3 * BLOCK_SIZE)),
    file(b"usr/lib/after", NOISE[1000 : 1000 + BLOCK_SIZE]),
    file(b"usr/lib/sparse", bytes(BLOCK_SIZE) + TEXT[:BLOCK_SIZE] + bytes(2 * BLOCK_SIZE) + b"x"),
    file(b"usr/bin/ping", b"\x7fELF", mode=0o4755, extended={XATTR + b"security.capability": b"\1\0\0\2" + bytes(16)}),
    hardlink(b"usr/bin/ping6", b"usr/bin/ping"),
    symlink(b"lib", b"usr/lib", uid=3),
    other(b"dev/null", b"3", rdev=(1, 3), mode=0o666),
    other(b"dev/loop0", b"4", rdev=(7, 0), mode=0o660, gid=6),
    other(b"run/pipe", b"6", mode=0o622),
    file("ünï\n".encode(), b"odd name"),
    file(b"\xff\xfe", b"no UTF-8"),
    directory(b"gone"),
    file(b"gone/x", b"x"),
]
UPPER = [
    directory(b"etc", mode=0o2775, gid=8, mtime=20),
    file(b"etc/.wh.shadow"),
    file(b".wh.gone"),
    file(b"etc/passwd", b"root:x:0:0\nme:x:1000:1000\n", mtime=21),
    hardlink(b"usr/bin/copy", b"usr/bin/ping"),
    file(b"lib/new", TEXT[:1000]),
    file(b"usr/lib/big", TEXT[:200_000], mode=0),
]
TOP = [directory(b"opt", uid=2_000_000), file(b"opt/text", TEXT), file(b"empty"), file(b"opt/hole", bytes(BLOCK_SIZE))]


def blobs() -> list[bytes]:
    """Three layers: gzip, zstd, plain."""
    return [gzip.compress(archive(*LOWER), mtime=0), zstandard.compress(archive(*UPPER)), archive(*TOP)]


def expected(config: ImageConfig, *layers: list[bytes]) -> Node:
    root = layer.merge(entries(*each) for each in layers)
    metadata.add_directory(root, ORIGIN, config, lambda data: data)
    return root


def opened(sif: bytes) -> SquashFS:
    image = squashfs_of(sif)
    return open_squashfs(lambda offset, size: image[offset : offset + size], len(image))


def test_the_reader_sees_the_merged_tree() -> None:
    config = image_config(Env=["A=b"], Cmd=["sh"])
    found = of_image(squashfs_of(convert(blobs(), config)))
    assert found == of_tree(expected(config, LOWER, UPPER, TOP))
    assert b"etc/shadow" not in found and b"usr/lib/new" in found


@pytest.mark.root
def test_unsquashfs_sees_the_merged_tree(tmp_path: Path) -> None:
    unsquashfs = need("unsquashfs")
    config = image_config(Env=["A=b"])
    image, target = tmp_path / "image", os.fsencode(tmp_path / "tree")
    image.write_bytes(squashfs_of(convert(blobs(), config)))
    tree = of_tree(expected(config, LOWER, UPPER, TOP))
    done = subprocess.run([unsquashfs, "-no-progress", "-d", target, image], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert of_directory(target) == tree


def test_apptainer_would_find_its_objects() -> None:
    sif = convert(blobs(), image_config(Env=["A=b"], Labels={"l": "v"}))
    found = load(lambda offset, size: sif[offset : offset + size], len(sif))
    objects = {each.name: sif[each.offset : each.offset + each.size] for each in found.descriptors}
    assert objects[b"definition-file"] == metadata.definition_file(ORIGIN)
    owners = (0, 3, 6, 8, 50, 1000, 2_000_000)
    for name, data in metadata.objects(ORIGIN, image_config(Env=["A=b"], Labels={"l": "v"}), owners):
        assert objects[name.encode()] == data
    primary = found.primary()
    assert primary.offset % 4096 == 0 and primary.offset + primary.size == len(sif)
    assert primary.partition is not None and primary.partition.fs == descriptor.FS_SQUASHFS
    assert opened(sif).ids() == owners or set(opened(sif).ids()) == set(owners)


@pytest.mark.root
def test_a_plain_user_converts_to_the_same_bytes(plain_user: Person) -> None:
    """Nothing is made on disk, so owners, setuid bits, devices and capabilities need no privilege."""
    sif = call_as(plain_user, lambda: convert(blobs()))
    assert plain_user.uid != os.geteuid() and sif == convert(blobs())
    tree = of_image(squashfs_of(sif))
    assert tree == of_tree(expected(image_config(), LOWER, UPPER, TOP))
    ping, null, loop = tree[b"usr/bin/ping"], tree[b"dev/null"], tree[b"dev/loop0"]
    assert (ping[1], ping[9]) == (0o4755, ((b"security.capability", b"\1\0\0\2" + bytes(16)),))
    assert (null[0], null[6], loop[0], loop[3], loop[6]) == (CHAR, (1, 3), BLOCK, 6, (7, 0))
    assert tree[b"run/pipe"][0] == FIFO
    assert (tree[b"usr/lib/text"][2:4], tree[b"opt"][2], tree[b"etc"][1]) == ((1000, 50), 2_000_000, 0o2775)


# -- what is deleted is gone ---------------------------------------------------------------------------------


def every_plain_byte(sif: bytes) -> Iterator[bytes]:
    """All fragment blocks, files and names, decompressed. Fails where the image has data that no inode names."""
    image = opened(sif)
    head = image.superblock
    ranges = set()
    for index in range(head.fragments):
        yield image._fragment(index)
        start, word = int.from_bytes(image._fragments.record(index)[:8], "little"), image._fragments.record(index)[8:12]
        ranges.add((start, int.from_bytes(word, "little") & 0xFFFFFF))
    used = set()
    for path, inode in image.walk():
        yield path
        if inode.kind == REGULAR:
            yield b"".join(image.read(inode))
            if inode.fragment == 0xFFFFFFFF:
                used.add(inode.start)
            else:
                used.add(("fragment", inode.fragment, inode.offset))
    yield sif
    starts = sorted({start for start in used if isinstance(start, int) and start})
    assert {each[1] for each in used if isinstance(each, tuple)} == set(range(head.fragments))
    covered = sum(length for _, length in ranges)
    files = [inode for _, inode in image.walk() if inode.kind == REGULAR]
    for start in starts:
        covered += max(disk_length(image, inode) for inode in files if inode.start == start)
    assert covered == head.inode_table - 96


def disk_length(image: SquashFS, inode: object) -> int:
    import struct

    from hpcc.squashfs.metadata import Cursor

    if inode.fragment != 0xFFFFFFFF:  # type: ignore[attr-defined]
        return 0
    count = -(-inode.size // BLOCK_SIZE)  # type: ignore[attr-defined]
    words = struct.unpack(f"<{count}I", Cursor(image._inodes, *inode.rest).read(4 * count))  # type: ignore[attr-defined]
    return sum(word & 0xFFFFFF for word in words)


SECRET = random.Random(11).randbytes(64)
PASSWORD = b"the password is hunter2; " * 3


@pytest.mark.parametrize("size", [0, 1000, BLOCK_SIZE - 100, BLOCK_SIZE + 10, 3 * BLOCK_SIZE])
@pytest.mark.parametrize("how", ["whiteout", "parent", "opaque", "replaced", "by directory", "same layer"])
def test_a_deleted_file_is_in_no_byte(size: int, how: str) -> None:
    filler = (TEXT * 2)[:size]
    lower = [
        *(file(b"keep/%d" % index, NOISE[index * 999 : index * 999 + 3000]) for index in range(5)),
        file(b"dir/secret", SECRET + NOISE[:size]), file(b"dir/password", PASSWORD + filler),
        *(file(b"keep/2%d" % index, NOISE[index * 999 : index * 999 + 3000 + index]) for index in range(5)),
    ]  # fmt: skip
    upper = {
        "whiteout": [file(b"dir/.wh.secret"), file(b"dir/.wh.password")],
        "parent": [file(b".wh.dir")],
        "opaque": [file(b"dir/.wh..wh..opq")],
        "replaced": [file(b"dir/secret", b"new"), symlink(b"dir/password", b"x")],
        "by directory": [directory(b"dir/secret"), directory(b"dir/password"), file(b"dir/password/x", b"y")],
        "same layer": [],
    }[how]
    if how == "same layer":
        lower += [file(b"dir/secret", b"new"), file(b"dir/password", b"new")]
    kept = convert([archive(*lower)])
    assert how == "same layer" or any(PASSWORD in data for data in every_plain_byte(kept))
    sif = convert([archive(*lower), archive(*upper)])
    for data in every_plain_byte(sif):
        assert SECRET not in data and PASSWORD not in data
    assert of_image(squashfs_of(sif)) == of_tree(expected(image_config(), lower, upper))


def test_a_deleted_name_target_or_attribute_is_in_no_byte() -> None:
    """Also what an upper layer's directory replaces: attributes go with it."""
    note, hidden = {XATTR + b"user.note": PASSWORD}, PASSWORD.replace(b" ", b"-")[:70]
    lower = [
        directory(b"d", extended=note), file(b"d/f", b"x", extended=note), symlink(b"link", PASSWORD),
        file(hidden, b"y"), directory(b"keep"), file(b"keep/f", b"z", extended={XATTR + b"user.kept": b"kept"}),
    ]  # fmt: skip
    upper = [file(b"d/.wh.f"), directory(b"d"), symlink(b"link", b"d"), file(b".wh." + hidden)]
    assert any(PASSWORD in each for each in every_table(convert([archive(*lower)])))
    tables = list(every_table(convert([archive(*lower), archive(*upper)])))
    assert not any(PASSWORD in each or hidden in each for each in tables) and any(b"kept" in each for each in tables)


def every_table(sif: bytes) -> Iterator[bytes]:
    """The inode, directory and xattr tables, decompressed; the SIF itself."""
    image = opened(sif)
    yield sif
    for table in (image._inodes, image._directories, image._xattr_reader()._pairs):
        at, plain = table.start, b""
        while at < table.end:
            try:
                data, at = table.block(at)
            except InvalidImage:  # behind the last block lie positions
                break
            plain += data
        assert plain
        yield plain


def test_what_an_upper_layer_links_to_lives() -> None:
    lower, upper = [file(b"a", SECRET + NOISE), file(b"b", PASSWORD)], [hardlink(b"x", b"a"), hardlink(b"y", b"b")]
    top = [file(b".wh.a"), file(b".wh.b")]
    sif = convert([archive(*each) for each in (lower, upper, top)])
    assert of_image(squashfs_of(sif)) == of_tree(expected(image_config(), lower, upper, top))


def test_files_of_holes_beside_others() -> None:
    """A file that is one hole has the same place in its pack as whatever was written next."""
    data = {b"hole": bytes(2 * BLOCK_SIZE), b"next": NOISE[: BLOCK_SIZE + 1], b"last": bytes(BLOCK_SIZE)}
    names = [b"hole", b"next", b"last"]
    for order in (names, names[::-1], [b"next", b"last", b"hole"]):
        for prefix in (b"", b"z"):
            lower = [file(prefix + b"%d" % index, data[name]) for index, name in enumerate(order)]
            assert of_image(squashfs_of(convert([archive(*lower)]))) == of_tree(expected(image_config(), lower))


def test_an_image_without_layers() -> None:
    assert of_image(squashfs_of(convert([]))) == of_tree(expected(image_config()))
    assert of_image(squashfs_of(convert([b"", bytes(1024)]))) == of_tree(expected(image_config()))


def test_labels_longer_than_a_block() -> None:
    for length in (BLOCK_SIZE - 10, BLOCK_SIZE, 5 * BLOCK_SIZE):
        config = image_config(Labels={"io.buildpacks.build.metadata": "x" * length + "é"}, Env=["LONG=" + "y" * length])
        assert of_image(squashfs_of(convert([archive(*TOP)], config))) == of_tree(expected(config, TOP))


paths = st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/a"])
sizes = st.sampled_from([0, 1, 700, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE + 9])
members = st.one_of(
    st.builds(
        lambda path, data, size: file(path, data[:size]), paths, st.sampled_from([NOISE, TEXT, bytes(500_000)]), sizes
    ),
    st.builds(lambda path: file((b"/" + path).replace(b"/a", b"/.wh.a").replace(b"/b", b"/.wh.b")), paths),
    st.sampled_from([file(b"d/.wh..wh..opq"), directory(b"d"), directory(b"a", mode=0o700), symlink(b"d/b", b"a")]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(members, max_size=6), max_size=3))
def test_any_layers(layers: list[list[bytes]]) -> None:
    try:
        tree = of_tree(expected(image_config(), *layers))
    except InvalidImage:
        return
    sif = convert([archive(*each) for each in layers])
    assert of_image(squashfs_of(sif)) == tree
    for _ in every_plain_byte(sif):
        pass


# -- the same bytes ------------------------------------------------------------------------------------------


def big_layer() -> bytes:
    source = random.Random(2)
    members = []
    for index in range(200):
        start, size = source.randrange(100_000), source.choice([10, 4000, 90_000, 200_000])
        members.append(file(b"big/%d" % index, source.choice([NOISE, TEXT])[start : start + size]))
    return gzip.compress(archive(*members), 1, mtime=0)


def test_threads_and_kept_packs_change_no_byte(tmp_path: Path) -> None:
    layers = [big_layer(), *blobs(), archive(file(b"big/.wh.7"), file(b"big/.wh.8"))]
    config, compressor = image_config(Env=["A=b"]), make_compressor()
    sif = convert(layers, config, threads=1)
    assert convert(layers, config, threads=8) == sif
    with ThreadPoolExecutor(2) as pool:
        packs = []
        for number, blob in enumerate(layers):
            plain = blob_plain(blob)
            path = tmp_path / str(number)
            with open(path, "w+b") as out:
                convert_layer(io_chunks(blob, 777), Digest.of(plain), out, compressor, pool)
            fd = os.open(path, os.O_RDONLY)
            name = pack_name(Digest.of(plain), compressor.id)
            pack = read_pack(lambda offset, size, fd=fd: os.pread(fd, size, offset), path.stat().st_size, name)
            packs.append(OpenPack(pack, fd))
        again = assembled(packs, config, pool, str(tmp_path))
        for each in packs:
            os.close(each.fd)
    assert again == sif


def blob_plain(blob: bytes) -> bytes:
    from hpcc.oci.compression import decompress

    return b"".join(decompress([blob]))


SCRIPT = """
import hashlib
from tests.integration.test_convert import blobs
from tests.support.layers import convert, image_config
print(hashlib.sha256(convert(blobs(), image_config(Env=["A=b"], Labels={"x": "1", "a": "2"}), threads=3)).hexdigest())
"""


def test_surroundings_change_no_byte() -> None:
    here = hashlib.sha256(convert(blobs(), image_config(Env=["A=b"], Labels={"x": "1", "a": "2"}))).hexdigest()
    for umask, more in (
        ("077", {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "1"}),
        (
            "000",
            {"TZ": "America/Los_Angeles", "PYTHONHASHSEED": "2", "LC_ALL": "C", "PYTHONUTF8": "0"},
        ),
    ):
        done = subprocess.run(
            ["sh", "-c", 'umask "$1"; shift; exec "$@"', "sh", umask, sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONPATH": str(ROOT), **more}, cwd="/", capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == here, done.stderr


def test_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    first = convert(blobs())
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert convert(blobs()) == first


# -- what is wrong -------------------------------------------------------------------------------------------


def converted(blob: bytes, digest: Digest, path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, open(path, "w+b") as out:
        convert_layer([blob], digest, out, make_compressor(), pool)


def test_another_diff_id(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="unpacks to"):
        converted(archive(*TOP), Digest.of(b"something else"), tmp_path / "p")
    converted(archive(*TOP), Digest.of(archive(*TOP), "sha512"), tmp_path / "p")


@pytest.mark.parametrize("damage", ["cut gzip", "cut tar", "no tar", "outside"])
def test_broken_layers(damage: str, tmp_path: Path) -> None:
    plain = {
        "cut gzip": archive(*LOWER), "cut tar": archive(*LOWER)[:70_000], "no tar": b"html" * 1000,
        "outside": archive(file(b"../../etc/passwd", b"x")),
    }[damage]  # fmt: skip
    blob = gzip.compress(plain)
    with pytest.raises(InvalidImage):
        converted(blob[:-500] if damage == "cut gzip" else blob, Digest.of(plain), tmp_path / "p")


def test_a_blob_is_read_to_its_end(tmp_path: Path) -> None:
    blob = gzip.compress(archive(*TOP)) + b"garbage that belongs to the blob's digest"
    seen = []

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(blob), 7):
            seen.append(blob[at : at + 7])
            yield seen[-1]

    with ThreadPoolExecutor(1) as pool, open(tmp_path / "p", "w+b") as out:
        convert_layer(chunks(), Digest.of(archive(*TOP)), out, make_compressor(), pool)
    assert b"".join(seen) == blob


def test_a_pack_that_was_cut_after_it_was_opened(tmp_path: Path) -> None:
    data = archive(file(b"a", NOISE), file(b"b", b"x" * 100), file(b"c", b"y" * 100))
    for upper in ([], [file(b".wh.c")]):
        with ThreadPoolExecutor(1) as pool, open(tmp_path / "p", "w+b") as out, open(tmp_path / "s", "w+b") as sif:
            pack = convert_layer([data], Digest.of(data), out, make_compressor(), pool)
            with open(tmp_path / "q", "w+b") as second:
                top = convert_layer([archive(*upper)], Digest.of(archive(*upper)), second, make_compressor(), pool)
            out.truncate(1000)
            with pytest.raises(IntegrityError, match="pack"):
                packs = [OpenPack(pack, out.fileno()), OpenPack(top, out.fileno())]
                assemble(sif.fileno(), packs, ORIGIN, image_config(), make_compressor(), pool)


def test_copying_where_the_kernel_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    first = convert(blobs())

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "other filesystem")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert convert(blobs()) == first
    (tmp_path / "a").write_bytes(b"0123456789")
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "w+b") as target:
        copy_range(source.fileno(), target.fileno(), 2, 5, 4)
        with pytest.raises(IntegrityError):
            copy_range(source.fileno(), target.fileno(), 8, 0, 4)
    assert (tmp_path / "b").read_bytes()[5:] == b"2345"


# -- the scripts ---------------------------------------------------------------------------------------------

ENV = [
    "PATH=/image/bin:/bin:/usr/bin", "QUOTES='\"'\\''",
    "DOLLAR=$HOME ${x} $(reboot) `reboot`", "NEWLINE=a\n\nb\n", "EMPTY=", "EQUALS=a=b=c",
    "GLOB=* ? [a]", "BACKSLASH=\\n\\", "UNICODE=ünï☃", "SPACES=  a  ", "HASH=#x", "BANG=!x", "_X=1", "OWN=image",
]  # fmt: skip


def script_of(config: ImageConfig, path: bytes) -> bytes:
    image = opened(convert([], config))
    found = image.lookup(path)
    assert found is not None and found.mode == 0o755
    return b"".join(image.read(found))


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_environment_survives_a_shell(shell: str, tmp_path: Path) -> None:
    config = image_config(Env=ENV)
    (tmp_path / "env.sh").write_bytes(script_of(config, b"/.singularity.d/env/10-docker.sh"))
    done = subprocess.run(
        [need(shell), "-euc", ". ./env.sh; exec /usr/bin/env -0"],
        cwd=tmp_path, env={"OWN": "caller's", "PATH": "/usr/bin"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = dict(each.split(b"=", 1) for each in done.stdout.split(b"\0") if each)
    for each in ENV:
        name, value = each.encode().split(b"=", 1)
        assert found[name] == (b"caller's" if name == b"OWN" else value)
    sif = convert([], config)
    loaded = load(lambda offset, size: sif[offset : offset + size], len(sif))
    stored = loaded.find(descriptor.GENERIC_JSON, "oci-config.json")
    assert stored is not None
    assert json.loads(sif[stored.offset : stored.offset + stored.size])["Env"] == ENV


def runs(config: ImageConfig, arguments: list[str], path: Path, stdin: bytes = b"") -> bytes:
    path.write_bytes(script_of(config, b"/singularity"))
    done = subprocess.run([need("sh"), path, *arguments], input=stdin, capture_output=True)
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_runscript_runs_entrypoint_and_cmd(tmp_path: Path) -> None:
    script = tmp_path / "run"
    odd = ["a b", "", "$HOME", "'\"\n", "-n", "*"]
    show = ["printf", "<%s>"]

    def shown(*values: str) -> bytes:
        return "".join(f"<{value}>" for value in values).encode()

    both = image_config(Entrypoint=[*show, "e"], Cmd=["c", *odd])
    assert runs(both, [], script) == shown("e", "c", *odd)
    assert runs(both, odd, script) == shown("e", *odd)
    assert runs(both, [""], script) == shown("e", "")
    cmd = image_config(Cmd=[*show, *odd])
    assert runs(cmd, [], script) == shown(*odd)
    assert runs(cmd, ["echo", "x  y"], script) == b"x  y\n"
    entry = image_config(Entrypoint=[*show, *odd])
    assert runs(entry, [], script) == shown(*odd)
    assert runs(entry, odd, script) == shown(*odd, *odd)
    assert runs(image_config(), ["printf", "%s.", "a", "b c"], script) == b"a.b c."
    assert runs(image_config(), [], script, b"echo from a shell") == b"from a shell\n"
    assert runs(image_config(Cmd=["sh", "-c", "exit 0"]), [], script) == b""


def test_devices_are_devices() -> None:
    found = opened(convert(blobs())).lookup(b"dev/null")
    assert found is not None and (found.kind, found.rdev, found.mode) == (CHAR, (1, 3), 0o666)
    root = opened(convert(blobs())).root
    assert (root.kind, root.mtime) == (DIRECTORY, 1)
