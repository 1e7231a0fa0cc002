"""Damaged inputs by the thousand, `make soak` a hundred thousand: one of three errors, soon, in little memory.

Each input is a valid one that was damaged where it hurts: with checksums and digests made right again, numbers set to
their limits, blocks swapped and doubled. Which it is, its number alone decides: `damaged("layer", 17)` is always the
same. A child process reads them, which has no more memory than said, and an alarm for each input.
"""

import gzip
import io
import json
import random
import resource
import signal
import struct
import traceback
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from hashlib import sha256
from itertools import islice
from multiprocessing import get_context
from typing import Any

import pytest
import zstandard

from hpcc import metadata
from hpcc.compressors import make_compressor
from hpcc.errors import IntegrityError, InvalidImage, UnsupportedImage
from hpcc.fstree import DIRECTORY, REGULAR, Node
from hpcc.oci import layer
from hpcc.oci.compression import decompress
from hpcc.oci.config import ImageConfig
from hpcc.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, parse_manifest
from hpcc.pack import read_pack, write_pack
from hpcc.sif.load import load
from hpcc.squashfs.compression import ZSTD
from tests.support.layers import (
    ORIGIN,
    SPARSE,
    archive,
    convert,
    directory,
    file,
    hardlink,
    long_name,
    other,
    pax,
    seal,
    sparse,
    squashfs_of,
    symlink,
)
from tests.support.squash import build, opened, rich_tree
from tests.support.stacks import SOAK

EXPECTED = (InvalidImage, UnsupportedImage, IntegrityError)
SECONDS = 10  # for one input, on a machine that is busy
MEMORY = 512 << 20  # more than the child has at its start
INPUTS = {"layer": 30_000, "stream": 15_000, "pack": 15_000, "squashfs": 20_000, "sif": 10_000, "document": 10_000}
SHARE = 1 if SOAK else 10


class Stuck(BaseException):
    """The alarm."""


# -- damage ------------------------------------------------------------------------------------------------------

NUMBERS = [0, 1, 2, 7, 95, 96, 97, 0x7F, 0x80, 0xFF, 511, 512, 0x7FFF, 0x8000, 0xFFFF, 1 << 20, (1 << 24) - 1, 1 << 24]
NUMBERS += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def flip(chance: random.Random, data: bytes) -> bytes:
    """A few bytes replaced, taken out, put in, doubled or cut off."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at, length = chance.randrange(len(made) + 1), chance.choice([1, 1, 2, 4, 8, 100])
        match chance.randrange(8):
            case 0:
                del made[at : at + length]
            case 1:
                made[at:at] = chance.randbytes(length)
            case 2:
                made[at:at] = made[at : at + 600]
            case 3 if chance.random() < 0.3:
                del made[at:]
            case 4:
                made[at : at + length] = chance.choice([b"\0", b"\xff", b"9"]) * length
            case _:
                put_number(chance, made, at)
    return bytes(made)


def put_number(chance: random.Random, made: bytearray, at: int) -> None:
    size = chance.choice([1, 2, 4, 4, 8])
    value = chance.choice([*NUMBERS, chance.getrandbits(64)]) % (1 << 8 * size)
    if at + size <= len(made):
        made[at : at + size] = value.to_bytes(size, "little")


FIELDS = [(0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8),
          (345, 9), (386, 12), (398, 12), (482, 1), (483, 12)]  # fmt: skip
OCTALS = [b"0", b"1", b"00000000777", b"77777777777", b"", b"-1", b"9", b"\x80", b"\xff" * 12, b" 12 ", b"0000010000"]
NAMES = [b"../x", b"/", b".", b"..", b".wh.", b".wh..wh..opq", b"d/.wh.f", b"a/" * 40, b"\xff", b"l/l/l", b"l", b"d"]


def damage_tar(chance: random.Random, data: bytes) -> bytes:
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for _ in range(chance.choice([1, 1, 2, 3, 10])):
        at = chance.randrange(len(blocks))
        if chance.random() < 0.6:  # a header's field, mostly, else text of a PAX header or a sparse map
            heads = [block for block in blocks if block[257:262] == b"ustar"]
            block = chance.choice(heads or blocks)
            offset, length = chance.choice(FIELDS)
            new = chance.choice(NAMES if length >= 100 else OCTALS)
            new = chance.choice(b"01234567xgLKSDV\0").to_bytes() if length == 1 else new
            block[offset : offset + length] = new[:length].ljust(length, b"\0")
        elif chance.random() < 0.5:
            blocks[at] = bytearray(flip(chance, bytes(blocks[at]))[:512].ljust(512, b"\0"))
        else:
            to = chance.randrange(len(blocks))
            match chance.randrange(4):
                case 0:
                    blocks[at], blocks[to] = blocks[to], blocks[at]
                case 1:
                    blocks.insert(to, bytearray(blocks[at]))
                case 2 if len(blocks) > 1:
                    del blocks[at]
                case 3:
                    del blocks[at + 1 :]
    if chance.random() < 0.9:
        blocks = [bytearray(seal(block)) if block[257:262] == b"ustar" else block for block in blocks]
    return b"".join(blocks)


VALUES: list[Any] = [
    None, True, 0, -1, 1, 1 << 31, 1 << 63, 1 << 70, 1e308, "", "\0", "x" * 5000, "\udc80", "a=b", "sha256:" + "0" * 64,
    [], {}, [[]], [None], {"": None}, [1, 2, 3], "../..", "\n", OCI_INDEX,
]  # fmt: skip


def damage_json(chance: random.Random, value: Any) -> Any:
    """The value with one of its parts replaced, taken away or doubled."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []
    todo = [value]
    for each in todo:
        inner = list(each.items()) if isinstance(each, dict) else list(enumerate(each))
        places += [(each, key) for key, _ in inner]
        todo += [item for _, item in inner if isinstance(item, (dict, list)) and item]
    if not places or chance.random() < 0.02:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 2 if isinstance(holder[key], int):
            holder[key] = chance.choice([*NUMBERS, -5, holder[key] + 1])
        case _:
            holder[key] = json.loads(json.dumps(chance.choice(VALUES)))
    return value


# -- what is read ------------------------------------------------------------------------------------------------


@cache
def tars() -> list[bytes]:
    xattr = {b"SCHILY.xattr.user.a": b"v" * 40, b"SCHILY.xattr.security.capability": bytes(20)}
    kinds = [
        directory(b"d", mode=0o1777), file(b"d/f", b"text" * 300, extended=xattr), symlink(b"l", b"d"),
        file(b"l/x", b"y"),
        hardlink(b"h", b"d/f"), other(b"null", b"3", rdev=(1, 3)), other(b"pipe", b"6"), file(b"d/.wh.f"),
        file(b"d/.wh..wh..opq"), symlink(b"loop", b"loop/x"),
    ]  # fmt: skip
    names = [
        long_name(b"g" * 200) + file(b"g", b"1"), long_name(b"t" * 200, b"K") + symlink(b"s", b"t"),
        file(b"n" * 200),
        pax({b"mtime": b"5.5", b"uid": b"7"}, b"g") + file(b"x"),
        pax({b"size": b"3", b"path": b"p"}) + file(b"y", b"abc"),
    ]  # fmt: skip
    pieces = [(0, 3), (9000, 5), (10_000, 1), (11_000, 1), (200_000, 600)]
    holes = [sparse(version, pieces, b"x" * 610, 300_000) for version in SPARSE]
    return [
        archive(*kinds),
        archive(*names),
        *(archive(each, file(b"z", b"z")) for each in holes),
        archive(*kinds, *holes),
    ]


@cache
def images() -> list[bytes]:
    root = rich_tree()
    for _, node in root.walk():
        if node.kind == REGULAR:
            node.data = node.data[:9000]
    wide = Node(DIRECTORY, 0o755)
    assert wide.children is not None
    wide.children.update({b"entry-%04d" % index: Node(REGULAR, 0o644, data=b"") for index in range(900)})
    return [
        build(root, block_size=4096, compress=lambda data: data), build(root, block_size=4096),
        build(root, block_size=4096, compressor=ZSTD, compress=zstandard.compress),
        build(wide, compress=lambda data: data),
    ]  # fmt: skip


@cache
def sifs() -> list[bytes]:
    return [convert([archive(file(b"a", b"x"), directory(b"d"), file(b"d/b", b"y" * 5000))]), convert([])]


@cache
def documents() -> list[Any]:
    def descriptor(kind: str, **more: Any) -> dict[str, Any]:
        return {"mediaType": kind, "digest": "sha256:" + "ab" * 32, "size": 5, **more}

    layers = [descriptor(OCI_LAYER_GZIP, urls=["https://x"], annotations={"a": "b"}), descriptor(OCI_LAYER_GZIP)]
    platform = {"os": "linux", "architecture": "arm", "variant": "v7"}
    settings = {"Env": ["PATH=/bin", "A"], "Cmd": ["a"], "Entrypoint": "x", "Labels": {"l": "v"}, "User": "1:2"}
    return [
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG), "layers": layers},
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST, platform=platform)]},
        {"architecture": "arm64", "os": "linux", "variant": "v8", "created": "2024-05-06T07:08:09Z", "config": settings,
         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "ab" * 32]}},
    ]  # fmt: skip


def damaged(kind: str, number: int) -> bytes:
    """Input `number` of a kind."""
    chance = random.Random(f"{kind} {number}")
    if kind == "layer":
        return damage_tar(chance, chance.choice(tars()))
    if kind == "stream":
        plain = chance.choice(tars())
        packed = [
            gzip.compress(plain, mtime=0), gzip.compress(plain[:700], mtime=0) + gzip.compress(plain[700:], mtime=0),
            zstandard.compress(plain), zstandard.ZstdCompressor(write_checksum=True).compress(plain),
            zstandard.compress(plain[:700]) + b"\x50\x2a\x4d\x18\3\0\0\0abc" + zstandard.compress(plain[700:]),
        ]  # fmt: skip
        return flip(chance, chance.choice(packed))
    if kind == "pack":
        blob, start = pack_of(chance.randrange(len(tars())))
        if chance.random() < 0.3:
            return flip(chance, blob)
        index: Any = json.loads(zlib.decompress(blob[start:-48]))
        for _ in range(chance.choice([1, 1, 2, 4])):
            index = damage_json(chance, index) if isinstance(index, dict) and index else index
        body = zlib.compress(json.dumps(index).encode())
        return blob[:start] + body + struct.pack("<QQ32s", start, len(body), sha256(body).digest())
    if kind == "squashfs":
        image = bytearray(chance.choice(images()))
        used, tables = struct.unpack_from("<Q", image, 40)[0], struct.unpack_from("<Q", image, 64)[0]
        for _ in range(chance.choice([1, 1, 2, 4])):
            put_number(
                chance, image, chance.choice([chance.randrange(96), *(chance.randrange(tables, used) for _ in "ab")])
            )
        return bytes(image) if chance.random() < 0.9 else flip(chance, bytes(image))
    if kind == "sif":
        made = bytearray(chance.choice(sifs()))
        for _ in range(chance.choice([1, 1, 2, 4])):
            put_number(chance, made, chance.choice([chance.randrange(128), 4096 + chance.randrange(585 * 6)]))
        return bytes(made) if chance.random() < 0.9 else flip(chance, bytes(made))
    document = chance.choice(documents())
    for _ in range(chance.choice([1, 1, 2, 4])):
        document = damage_json(chance, document) if isinstance(document, (dict, list)) and document else document
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return text if chance.random() < 0.8 else flip(chance, text)


@cache
def pack_of(number: int) -> tuple[bytes, int]:
    """A pack, and where its index begins."""
    with ThreadPoolExecutor(1) as pool:
        out = io.BytesIO()
        write_pack(out, "name", [tars()[number]], make_compressor().compress, pool, 4)
    blob = out.getvalue()
    return blob, struct.unpack("<Q", blob[-48:-40])[0]


# -- the readers -------------------------------------------------------------------------------------------------


def read_layer(data: bytes) -> None:
    """Through a pack and back to a tree."""
    out = io.BytesIO()
    with ThreadPoolExecutor(1) as pool:
        pack = write_pack(out, "name", [data], make_compressor().compress, pool, 4)
    blob = out.getvalue()
    assert read_pack(lambda offset, size: blob[offset : offset + size], len(blob), "name") == pack
    layer.merge([pack.entries, pack.entries])


def read_stream(data: bytes) -> None:
    for chunks in ([data], (data[at : at + 100] for at in range(0, len(data), 100))):
        for piece in decompress(chunks):
            assert 0 < len(piece) <= 1 << 20


def read_a_pack(data: bytes) -> None:
    read_pack(lambda offset, size: data[offset : offset + size], len(data), "name")


def read_squashfs(data: bytes) -> None:
    found = opened(data)
    found.ids()
    for count, (path, inode) in enumerate(found.walk()):
        assert count <= len(data)
        if inode.kind == REGULAR:
            for _ in islice(found.read(inode), 50):
                pass
        if count < 50:
            found.lookup(path)
            with suppress(*EXPECTED):
                found.lookup(path + b"/../" + path[:3])


def read_sif(data: bytes) -> None:
    found = load(lambda offset, size: data[offset : offset + size], len(data))
    for each in found.descriptors:
        assert each.offset >= 0 <= each.size and each.offset + each.size <= len(data)
    found.primary()
    read_squashfs(squashfs_of(data))


def read_document(data: bytes) -> None:
    with suppress(*EXPECTED):
        parse_manifest(data)
    config = ImageConfig.parse(data)
    metadata.objects(ORIGIN, config, (0,))
    metadata.add_directory(Node(DIRECTORY, 0o755), ORIGIN, config, lambda content: content)


READERS: dict[str, Callable[[bytes], None]] = {
    "layer": read_layer, "stream": read_stream, "pack": read_a_pack, "squashfs": read_squashfs, "sif": read_sif,
    "document": read_document,
}  # fmt: skip


def read_all(kind: str, count: int) -> tuple[int, str]:
    """Read `count` inputs of a kind: how many were refused, and the first that went wrong."""

    def stuck(*_: object) -> None:
        raise Stuck

    damaged(kind, 0)
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, stuck)
    refused = 0
    for number in range(count):
        data = damaged(kind, number)
        signal.alarm(SECONDS)
        try:
            READERS[kind](data)
        except EXPECTED as error:
            refused += 1
            if not error.message or len(error.message) > 2000:
                return refused, f"input {number}: a message of {len(error.message)} characters"
        except BaseException:
            return refused, f"input {number}: {traceback.format_exc()[-3000:]}"
        finally:
            signal.alarm(0)
    return refused, ""


@pytest.mark.parametrize("kind", INPUTS)
def test_readers(kind: str) -> None:
    count = INPUTS[kind] // SHARE
    with ProcessPoolExecutor(1, get_context("fork")) as child:
        refused, wrong = child.submit(read_all, kind, count).result()
    print(f"{kind}: {count} inputs, {refused} refused")
    assert not wrong, f"{kind}, {wrong}"
    assert count * 0.2 < refused < count, "damage that nobody notices, or nothing that is read to its end"
