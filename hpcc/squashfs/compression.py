"""Compressor ids of a SquashFS image, and the bounded decompressor of each.

Image bytes are hostile: every decompressor gets the most bytes that it may return, and no
compressed length or header field can make it allocate more.
"""

from collections.abc import Callable
from typing import Any

from hpcc.errors import InvalidImage, UnsupportedImage

GZIP, LZMA, LZO, XZ, LZ4, ZSTD = range(1, 7)

NAMES = {GZIP: "gzip", LZMA: "lzma", LZO: "lzo", XZ: "xz", LZ4: "lz4", ZSTD: "zstd"}

Decompress = Callable[[bytes, int], bytes]
"""(compressed, most bytes of output) -> output; InvalidImage for damaged or longer data."""

XZ_MEMORY = 64 << 20  # dictionaries of SquashFS are no larger than a block, 1 MiB
ZSTD_WINDOW = 8 << 20


def decompressor(compressor: int) -> Decompress:
    """The decompressor of an image.

    UnsupportedImage where this installation cannot read it, InvalidImage for an unknown id.
    """
    if compressor == GZIP:
        return _zlib()
    if compressor in (XZ, LZMA):
        return _lzma(compressor)
    if compressor == ZSTD:
        return _zstd()
    if compressor == LZ4:
        return _lz4()
    if compressor == LZO:
        raise UnsupportedImage(
            "the SquashFS image is compressed by lzo, which hpcc cannot read",
            hint="make the image again with gzip or zstd: mksquashfs -comp gzip",
        )
    raise InvalidImage(f"the SquashFS image names an unknown compressor, {compressor}")


def _damaged(name: str, reason: object) -> InvalidImage:
    return InvalidImage(f"a {name} block of the SquashFS image does not decompress: {reason}")


def _zlib() -> Decompress:
    make: Callable[[], Any]
    error: Any
    try:
        from isal import isal_zlib

        make, error = isal_zlib.decompressobj, isal_zlib.error
    except ImportError:  # no wheel for this machine
        import zlib

        make, error = zlib.decompressobj, zlib.error

    def decompress(data: bytes, most: int) -> bytes:
        stream = make()
        try:
            # One byte more than allowed: a stream that ends at the limit still reads its checksum.
            plain: bytes = stream.decompress(data, most + 1)
        except (error, ValueError) as bad:
            raise _damaged("gzip", bad) from None
        if not stream.eof or len(plain) > most:
            raise _damaged("gzip", "it is cut short, or longer than its place")
        return plain

    return decompress


def _lzma(compressor: int) -> Decompress:
    import lzma

    form, name = (lzma.FORMAT_XZ, "xz") if compressor == XZ else (lzma.FORMAT_ALONE, "lzma")

    def decompress(data: bytes, most: int) -> bytes:
        stream = lzma.LZMADecompressor(form, memlimit=XZ_MEMORY)
        try:
            plain = stream.decompress(data, most + 1)
        except (lzma.LZMAError, EOFError) as bad:
            raise _damaged(name, bad) from None
        if not stream.eof or len(plain) > most:
            raise _damaged(name, "it is cut short, or longer than its place")
        return plain

    return decompress


def _zstd() -> Decompress:
    try:
        import zstandard
    except ImportError:
        raise UnsupportedImage(
            "the SquashFS image is compressed by zstd, and Python has no module zstandard",
            hint="pip install zstandard",
        ) from None
    stream = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)

    def decompress(data: bytes, most: int) -> bytes:
        try:
            # The library allocates what the frame's header claims, whatever limit it is given.
            if zstandard.frame_content_size(data) > most:
                raise _damaged("zstd", "it is longer than its place")
            plain = stream.decompress(data, max_output_size=most)
        except zstandard.ZstdError as bad:
            raise _damaged("zstd", bad) from None
        if len(plain) > most:
            raise _damaged("zstd", "it is longer than its place")
        return plain

    return decompress


def _lz4() -> Decompress:
    try:
        import lz4.block as block
    except ImportError:
        raise UnsupportedImage(
            "the SquashFS image is compressed by lz4, and Python has no module lz4",
            hint="pip install 'hpcc[compress]'",
        ) from None

    def decompress(data: bytes, most: int) -> bytes:
        try:
            plain: bytes = block.decompress(data, uncompressed_size=most)
        except (block.LZ4BlockError, ValueError) as bad:
            raise _damaged("lz4", bad) from None
        return plain

    return decompress
