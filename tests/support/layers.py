"""Layers built by hand, byte for byte, and whole conversions of them.

Python's tarfile is what the reader is compared with, so nothing here uses it.
"""

import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hpcc.compressors import make_compressor
from hpcc.convert import OpenPack, assemble, convert_layer
from hpcc.metadata import Origin
from hpcc.oci import layer, tar
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.sif.load import load

END = bytes(1024)
ORIGIN = Origin("example.org/some/image", "sha256:" + "ab" * 32, "linux/amd64", make_compressor().id)


# -- tar -----------------------------------------------------------------------------------------------------


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int = 0,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    patches: Mapping[int, bytes] | None = None,
) -> bytes:
    """One block, its checksum right; `patches` go in before the checksum is made."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = b"%07o\0" % mode
    block[108:116] = b"%07o\0" % uid
    block[116:124] = b"%07o\0" % gid
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % mtime
    block[156:157] = kind
    block[157 : 157 + len(target)] = target
    block[257 : 257 + len(magic)] = magic
    if kind in b"34" and kind != b"\0":
        block[329:337] = b"%07o\0" % rdev[0]
        block[337:345] = b"%07o\0" % rdev[1]
    for offset, data in (patches or {}).items():
        block[offset : offset + len(data)] = data
    assert len(block) == 512
    return seal(block)


def seal(block: bytes | bytearray) -> bytes:
    """The block with the checksum that it should have."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(records: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    pairs = records.items() if isinstance(records, Mapping) else records
    body = b"".join(record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/x", kind, len(body)) + padded(body)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", kind, len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


def file(name: bytes, data: bytes = b"", *, extended: Mapping[bytes, bytes] | None = None, **more: Any) -> bytes:
    """A regular file; with `extended`, or a name that is too long, a PAX header stands before it."""
    return other(name, b"0", data, extended=extended, **more)


def other(
    name: bytes, kind: bytes, data: bytes = b"", *, extended: Mapping[bytes, bytes] | None = None, **more: Any
) -> bytes:
    records = dict(extended or {})
    target = more.pop("target", b"")
    if len(name) > 100:
        records[b"path"], name = name, name[:100]
    if len(target) > 100:
        records[b"linkpath"], target = target, target[:100]
    return (pax(records) if records else b"") + header(name, kind, len(data), target=target, **more) + padded(data)


def directory(name: bytes, **more: Any) -> bytes:
    return other(name + b"/", b"5", **{"mode": 0o755, **more})


def symlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return other(name, b"2", target=target, **{"mode": 0o777, **more})


def hardlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return other(name, b"1", target=target, **more)


SPARSE = ("old", "0.0", "0.1", "1.0")
"""How a tar says that a file has holes: GNU's old header, and three forms of PAX records."""


def gnu_sparse(pieces: list[tuple[int, int]], stored: bytes, size: int) -> bytes:
    fields = [b"%011o\0%011o\0" % piece for piece in pieces]
    first, rest = fields[:4], fields[4:]
    block = header(
        b"s", b"S", len(stored), magic=b"ustar  \0",
        patches={386: b"".join(first), 482: b"\1" if rest else b"\0", 483: b"%011o\0" % size},
    )  # fmt: skip
    while rest:
        now, rest = rest[:21], rest[21:]
        block += b"".join(now).ljust(504, b"\0") + (b"\1" if rest else b"\0") + bytes(7)
    return block + padded(stored)


def pax_sparse(version: str, pieces: list[tuple[int, int]], stored: bytes, size: int) -> bytes:
    if version == "0.0":
        pairs = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(pieces))]
        for offset, length in pieces:
            pairs += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
        return pax(pairs) + header(b"s", b"0", len(stored)) + padded(stored)
    if version == "0.1":
        numbers = b",".join(b"%d,%d" % piece for piece in pieces)
        records = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.numblocks": b"%d" % len(pieces)}
        records |= {b"GNU.sparse.map": numbers, b"GNU.sparse.name": b"s"}
        return pax(records) + header(b"GNUSparseFile.1/s", b"0", len(stored)) + padded(stored)
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"s"}
    records[b"GNU.sparse.realsize"] = b"%d" % size
    body = padded(b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % piece for piece in pieces)) + stored
    return pax(records) + header(b"GNUSparseFile.1/s", b"0", len(body)) + padded(body)


def sparse(version: str, pieces: list[tuple[int, int]], stored: bytes, size: int) -> bytes:
    """A member `s` of `size` bytes, of which `stored` has the (offset, length) `pieces`, in a version of SPARSE."""
    return gnu_sparse(pieces, stored, size) if version == "old" else pax_sparse(version, pieces, stored, size)


def archive(*members: bytes) -> bytes:
    return b"".join(members) + END


def read_tar(data: bytes, chunk: int = 0) -> list[tuple[tar.Member, bytes]]:
    """All members and their data, the stream cut into pieces of `chunk` bytes."""
    step = chunk or max(1, len(data))
    reader = tar.TarReader(tar.ByteStream(data[at : at + step] for at in range(0, len(data), step)))
    return [(member, b"".join(reader.blocks(4096))) for member in reader]


def entries(*members: bytes) -> list[layer.Entry]:
    """The entries of a layer of these members; a file's `data` is its bytes."""
    found = []
    for member, data in read_tar(archive(*members)):
        item = layer.entry(member)
        if item is not None:
            found.append(item._replace(data=data) if member.type == tar.REGULAR else item)
    return found


# -- conversion ----------------------------------------------------------------------------------------------


def image_config(**more: Any) -> ImageConfig:
    document = {"architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09.123456789Z", "config": more}
    return ImageConfig.parse(json.dumps(document).encode())


def convert(
    blobs: Sequence[bytes], config: ImageConfig | None = None, *, threads: int = 2, origin: Origin = ORIGIN
) -> bytes:
    """The SIF of an image with these layers."""
    compressor = make_compressor()
    with ThreadPoolExecutor(threads) as pool, tempfile.TemporaryDirectory() as scratch:
        packs = []
        files = []
        for number, blob in enumerate(blobs):
            out = open(os.path.join(scratch, str(number)), "w+b")
            files.append(out)
            digest = Digest.of(b"".join(plain_of(blob)))
            packs.append(OpenPack(convert_layer(io_chunks(blob), digest, out, compressor, pool), out.fileno()))
            out.flush()
        sif = assembled(packs, config or image_config(), pool, scratch, origin)
        for out in files:
            out.close()
    return sif


def assembled(
    packs: Sequence[OpenPack], config: ImageConfig, pool: ThreadPoolExecutor, scratch: str, origin: Origin = ORIGIN
) -> bytes:
    with open(os.path.join(scratch, "sif"), "w+b") as out:
        assemble(out.fileno(), packs, origin, config, make_compressor(), pool)
        out.seek(0)
        return out.read()


def plain_of(blob: bytes) -> Iterable[bytes]:
    from hpcc.oci.compression import decompress

    return decompress([blob])


def io_chunks(blob: bytes, size: int = 50_000) -> Iterable[bytes]:
    stream = io.BytesIO(blob)
    return iter(lambda: stream.read(size), b"")


def squashfs_of(sif: bytes) -> bytes:
    found = load(lambda offset, size: sif[offset : offset + size], len(sif)).primary()
    return sif[found.offset : found.offset + found.size]
