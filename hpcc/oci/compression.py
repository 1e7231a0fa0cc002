"""Decompress a layer while it arrives. The compression is sniffed; no media type is believed.

1f 8b           gzip (RFC 1952), any number of members
28 b5 2f fd     zstd (RFC 8878), any number of frames; also 5? 2a 4d 18, a skippable frame
anything else   plain tar
"""

from collections.abc import Iterable, Iterator
from typing import Any

from hpcc.errors import InvalidImage

PIECE = 1 << 20  # bytes that are decompressed at a time, so that a bomb meets a bounded consumer
MAX_WINDOW = 128 << 20  # zstd --ultra -22 --long=27, what the reference decoder accepts by default


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The plain bytes of a layer. InvalidImage where the stream is damaged or ends early."""
    stream = iter(chunks)
    head = b""
    while len(head) < 4 and (chunk := next(stream, None)) is not None:
        head += chunk
    rest = _chain(head, stream)
    if head[:2] == b"\x1f\x8b":
        return _gunzip(rest)
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return _unzstd(rest)
    return rest


def _chain(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from stream


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    zlib: Any
    try:
        from isal import isal_zlib as zlib
    except ImportError:
        import zlib
    inflater = zlib.decompressobj(wbits=31)
    started = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if inflater.eof:
                    if not data.strip(b"\0"):
                        break  # padding between or after members
                    if data[:2] != b"\x1f\x8b"[: len(data)]:
                        return  # trailing garbage, which gzip(1) ignores as well
                    inflater = zlib.decompressobj(wbits=31)
                started = True
                plain = inflater.decompress(data, PIECE)
                if plain:
                    yield plain
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    except zlib.error as error:
        raise InvalidImage(f"the layer's gzip stream is damaged: {error}") from None
    if not started or not inflater.eof:
        raise InvalidImage("the layer's gzip stream ends early")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(
            _Readable(chunks),  # type: ignore[arg-type]  # it reads, and that is all that is asked of it
            read_across_frames=True,
            read_size=1 << 17,
        )
        while plain := reader.read(PIECE):
            yield plain
    except zstandard.ZstdError as error:
        raise InvalidImage(f"the layer's zstd stream is damaged: {error}") from None


class _Readable:
    """What zstandard's stream_reader reads from: it takes chunks of any size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        return next(self._chunks, b"")
