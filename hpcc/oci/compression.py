"""Decompress a layer while it arrives. The compression is sniffed; no media type is believed.

1f 8b           gzip (RFC 1952), any number of members
28 b5 2f fd     zstd (RFC 8878), any number of frames; also 5? 2a 4d 18, a skippable frame
anything else   plain tar

What follows the last gzip member is ignored, as by gzip(1). The zstd library does not say whether its input ended
in the middle of a frame, so the frames' outlines are followed here (RFC 8878, 3.1.1):

    magic 4 | descriptor 1 | window 0-1 | dictionary 0-4 | content size 0-8
    blocks: header 3 (bit 0 last, 1-2 type, 3-23 size) | data, 1 byte for RLE (type 1)
    checksum 0 or 4              a skippable frame: magic 4 | size 4 | data
"""

from __future__ import annotations

from hpcc.errors import InvalidImage
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


PIECE = 1 << 20  # bytes that are decompressed at a time, so that a bomb meets a bounded consumer
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
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
    if head[:4] == ZSTD_MAGIC or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return _unzstd(rest)
    return rest


def _chain(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    # No `yield from`: it would close the caller's generator with this one, and its end is still to be read.
    for chunk in stream:  # noqa: UP028
        yield chunk


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    zlib: Any
    try:
        from isal import isal_zlib as zlib
    except ImportError:
        import zlib
    inflater = zlib.decompressobj(wbits=31)
    held = b""
    try:
        for chunk in chunks:
            data, held = held + chunk, b""
            while data:
                if inflater.eof:
                    if len(data) < 2:
                        held = data  # half a magic: how the stream was cut into chunks must not matter
                        break
                    if data[:2] != b"\x1f\x8b":
                        return
                    inflater = zlib.decompressobj(wbits=31)
                plain = inflater.decompress(data, PIECE)
                if plain:
                    yield plain
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    except zlib.error as error:
        raise InvalidImage(f"the layer's gzip stream is damaged: {error}") from None
    if not inflater.eof:
        raise InvalidImage("the layer's gzip stream ends early")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    source = _ZstdSource(chunks)
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(
            source,  # type: ignore[arg-type]  # it reads, and that is all that is asked of it
            read_across_frames=True,
            read_size=1 << 17,
        )
        while plain := reader.read(PIECE):
            yield plain
    except zstandard.ZstdError as error:
        raise InvalidImage(f"the layer's zstd stream is damaged: {error}") from None
    if not source.is_complete:
        raise InvalidImage("the layer's zstd stream ends early")


class _ZstdSource:
    """What zstandard's stream_reader reads from, chunks of any size; knows whether they ended where a frame does."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._skip = 0  # bytes until the next field that matters
        self._field = b""
        self._checksum = 0
        self._next = self._magic

    @property
    def is_complete(self) -> bool:
        return self._next == self._magic and not self._skip and not self._field

    def read(self, size: int = -1) -> bytes:
        for chunk in self._chunks:
            if chunk:
                self._follow(chunk)
                return chunk
        return b""

    def _follow(self, chunk: bytes) -> None:
        at = 0
        while at < len(chunk):
            skipped = min(self._skip, len(chunk) - at)
            self._skip -= skipped
            at += skipped
            while not self._skip and at < len(chunk):
                self._field += chunk[at : at + 1]
                at += 1
                self._next()

    def _set(self, step: Callable[[], None], skip: int) -> None:
        self._next, self._skip, self._field = step, skip, b""

    def _magic(self) -> None:
        if len(self._field) == 4:
            if self._field[1:] == b"\x2a\x4d\x18" and self._field[0] & 0xF0 == 0x50:
                self._set(self._skippable, 0)
            elif self._field == ZSTD_MAGIC:
                self._set(self._descriptor, 0)
            else:
                raise InvalidImage("the layer's zstd stream is damaged: no frame begins where one ends")

    def _skippable(self) -> None:
        if len(self._field) == 4:
            self._set(self._magic, int.from_bytes(self._field, "little"))

    def _descriptor(self) -> None:
        flags = self._field[0]
        single = flags >> 5 & 1
        content = (single, 2, 4, 8)[flags >> 6]
        self._checksum = 4 * (flags >> 2 & 1)
        self._set(self._block, (1 - single) + (0, 1, 2, 4)[flags & 3] + content)

    def _block(self) -> None:
        if len(self._field) == 3:
            header = int.from_bytes(self._field, "little")
            length = 1 if header >> 1 & 3 == 1 else header >> 3
            if header & 1:
                self._set(self._magic, length + self._checksum)
            else:
                self._set(self._block, length)
