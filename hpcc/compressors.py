"""What compresses the blocks of a SquashFS image, and the converter id that names it.

    gzip          ISA-L at level 2: every kernel reads it, and nothing is quicker for its size
    gzip:1 … 12   libdeflate; smaller, slower                                                    extra: compress
    zstd[:1 … 22] for kernels and squashfuses that read it; level 3
    lz4           the quickest to read, the largest                                              extra: compress
    xz            the smallest, slow to read

A converter id names all that the bytes of a pack or SIF depend on beside their input: the version of this layout,
the compression library's own version, its level, and the machine's architecture. Where another library compresses,
the id is another one, never other bytes under one name. Of libraries that do not say which version they are, the id
has a digest of what they make of a sample.

    1-gzip-isal2.31.1-2-x86_64      layout - format - library and version - level - machine
"""

from __future__ import annotations

import os

from hpcc.errors import SettingsError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.settings import COMPRESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LAYOUT = "1"  # raise it whenever the same layers would give other bytes
BLOCK_SIZE = 131072
HEAD = 8  # bytes that ISA-L's quick loop must not see first; at least 4, at most 16
ISAL_LEVEL = 2  # its highest level whose output is the same on each CPU model; level 3 has given three results
ZLIB_LEVEL, ZSTD_LEVEL, XZ_PRESET = 6, 3, 6


class Compressor(NamedTuple):
    """id: of the converter. squashfs_id: a constant of squashfs.compression. compress: safe in any thread."""

    id: str
    squashfs_id: int
    compress: Callable[[bytes], bytes]


def converter_id(compression: str = "gzip") -> str:
    """The id of `make_compressor(compression)`; of the default without loading it, since a warm run asks for it."""
    if compression != "gzip":
        return make_compressor(compression).id
    try:
        # ISA-L's own version: python-isal is built from several of them under one number of its own.
        from isal import ISAL_VERSION
    except ImportError:
        from zlib import ZLIB_RUNTIME_VERSION

        return _id("gzip", f"zlib{ZLIB_RUNTIME_VERSION}", ZLIB_LEVEL)
    return _id("gzip", f"isal{ISAL_VERSION}", ISAL_LEVEL)


def make_compressor(compression: str = "gzip") -> Compressor:
    """The compressor of a setting `compression`, as settings.py accepts it.

    SettingsError where this installation has not what it needs.
    """
    name, _, level = compression.partition(":")
    if compression == "gzip":
        return _default()
    return _MAKERS[name](int(level or 0))


def compressor_of(converter: str) -> Compressor | None:
    """The compressor that has this converter id; None where this installation makes other bytes, or none."""
    _, name, _, level, _ = (converter.split("-", 4) + [""] * 5)[:5]
    if not level.isdecimal() or not 0 <= int(level) <= COMPRESSIONS.get(name, -1):
        return None
    for compression in ("gzip", f"{name}:{level}"):
        try:
            found = make_compressor(compression)
        except SettingsError:
            continue
        if found.id == converter:
            return found
    return None


def _id(name: str, library: str, level: int) -> str:
    return f"{LAYOUT}-{name}-{library}-{level}-{os.uname().machine}"


def _default() -> Compressor:
    """gzip by ISA-L level 2; zlib level 6 where isal has no wheel."""
    from hpcc.squashfs.compression import GZIP

    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return Compressor(converter_id(), GZIP, lambda data: zlib.compress(data, ZLIB_LEVEL))

    def compress(data: bytes) -> bytes:
        """One zlib stream. Its first bytes are flushed alone: see docs/adr/0007-isal-first-bytes.md."""
        stream = isal_zlib.compressobj(ISAL_LEVEL)
        head = stream.compress(data[:HEAD]) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
        return head + stream.compress(data[HEAD:]) + stream.flush()

    return Compressor(converter_id(), GZIP, compress)


def _gzip(level: int) -> Compressor:
    from hpcc.squashfs.compression import GZIP

    deflate = _optional("deflate", f"gzip:{level}")

    def compress(data: bytes) -> bytes:
        return bytes(deflate.zlib_compress(data, level))

    return Compressor(_id("gzip", f"libdeflate.{_behaviour(compress)}", level), GZIP, compress)


def _zstd(level: int) -> Compressor:
    import threading

    import zstandard

    from hpcc.squashfs.compression import ZSTD

    level = level or ZSTD_LEVEL
    held = threading.local()  # a compressor serves one thread at a time

    def compress(data: bytes) -> bytes:
        if not hasattr(held, "compressor"):
            held.compressor = zstandard.ZstdCompressor(level)
        made: bytes = held.compressor.compress(data)
        return made

    return Compressor(_id("zstd", "zstd" + ".".join(map(str, zstandard.ZSTD_VERSION)), level), ZSTD, compress)


def _lz4(level: int) -> Compressor:
    from hpcc.squashfs.compression import LZ4

    _optional("lz4", "lz4")
    import lz4.block as block
    from lz4 import library_version_string

    def compress(data: bytes) -> bytes:
        made: bytes = block.compress(data, store_size=False)
        return made

    return Compressor(_id("lz4", f"lz4{library_version_string()}", level), LZ4, compress)


def _xz(level: int) -> Compressor:
    import lzma

    from hpcc.squashfs.compression import XZ

    # The kernel's decoder has no larger dictionary than a block, and no other check than CRC32.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": BLOCK_SIZE}]

    def compress(data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)

    return Compressor(_id("xz", f"liblzma.{_behaviour(compress)}", level), XZ, compress)


_MAKERS: dict[str, Callable[[int], Compressor]] = {"gzip": _gzip, "zstd": _zstd, "lz4": _lz4, "xz": _xz}


def _optional(module: str, compression: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise SettingsError(
            f"compression {compression} needs the Python module {module}, which is not installed",
            hint="pip install 'hpcc[compress]'",
        ) from None


def _behaviour(compress: Callable[[bytes], bytes]) -> str:
    """Eight hexadecimal digits that another version of a library would hardly have: of what it makes of a sample.

    The sample, 49 kB of numbers that repeat themselves here and there, tells each two levels of libdeflate apart.
    """
    from hashlib import sha256

    number, sample = 1, bytearray()
    for _ in range(10_000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        sample += b"%d,%d;" % ((number >> 8) % 100, (number >> 16) % 7)
    return sha256(compress(bytes(sample))).hexdigest()[:8]
