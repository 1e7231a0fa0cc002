"""A pack: one layer as compressed SquashFS blocks, and what its members say.

A SIF is assembled from the packs of its layers (convert.py). The bytes of a pack depend on the layer's plain tar
stream and on the converter id alone.

    0         magic "hpcc-pack-v1\\n\\0\\0\\0"
    16        data: blocks of files and fragment blocks, in the order of the layer
    I         index: JSON, compressed by zlib
    end - 48  u64 I, u64 size of the index on disk, sha256 of the index on disk

The index:
    name        under which the pack stands in the cache; whoever opens it compares
    files       [size, start, [size words], fragment, offset, sparse], offsets from the start of the pack;
                equal files of a layer share one
    fragments   [start, size word, plain bytes]
    entries     [path, kind, mode, uid, gid, mtime, [[xattr, value]…], target, [major, minor], file], see
                oci.layer.Entry; byte strings as Latin-1; `file` an index into files, or null
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, BinaryIO

from hpcc import fstree
from hpcc.blocks import BlockQueue
from hpcc.compressors import BLOCK_SIZE
from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci import layer, tar
from hpcc.records import NamedTuple
from hpcc.squashfs.inode import NO_FRAGMENT, Placement

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

MAGIC = b"hpcc-pack-v1\n\0\0\0"
_TRAILER = struct.Struct("<QQ32s")
_ZERO = bytes(BLOCK_SIZE)
MAX_INDEX = 1 << 30  # bytes of a plain index
MAX_ENTRIES = 1 << 29  # bytes of a layer's names, targets and xattrs, and ENTRY_COST for each: two million members
ENTRY_COST = 200
COMPARED, MOST_COMPARED = 1 << 20, 4  # bytes of two files at a time; files


class PackFragment(NamedTuple):
    start: int
    word: int
    size: int  # plain bytes


class Pack(NamedTuple):
    """A pack's index; the data stay in the file."""

    name: str
    entries: tuple[layer.Entry, ...]  # data of regular files: a Placement with offsets of this pack
    fragments: tuple[PackFragment, ...]


class DataWriter:
    """Append files as SquashFS blocks and fragments, in order. Finds files that are equal.

    `write` is called with the bytes at the current end; `position` is where that is. `read(position, size)` reads what
    was written. What a duplicate wrote is taken back by `truncate(position)`. Placements are final after `finish`.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        read: Callable[[int, int], bytes],
        truncate: Callable[[int], object],
        position: int,
        compress: Callable[[bytes], bytes],
        pool: ThreadPoolExecutor,
        depth: int,
    ) -> None:
        self._write, self._read, self._truncate, self.position = write, read, truncate, position
        self._queue = BlockQueue(compress, pool, depth)
        self._fragment = bytearray()
        self._tails: dict[tuple[int, bytes], tuple[int, int]] = {}  # size, sha256 -> fragment, offset
        self._blocks: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}  # size, CRC, words -> starts of such files
        self.fragments: list[PackFragment] = []
        self._fragment_count = 0

    def add(self, size: int, blocks: Iterable[bytes], done: Callable[[Placement], None]) -> None:
        """Append one file of `size` bytes, given in blocks of BLOCK_SIZE; `done` gets its place later."""
        if size < BLOCK_SIZE:
            data = b"".join(blocks)
            fragment, offset = self.add_tail(data) if data else (NO_FRAGMENT, 0)
            done(Placement(size, 0, (), fragment, offset, 0))
            return
        _BlockFile(self, size, done).add(blocks)

    def add_tail(self, data: bytes) -> tuple[int, int]:
        """(fragment, offset) of a file shorter than a block."""
        key = (len(data), sha256(data).digest())
        known = self._tails.get(key)
        if known is None:
            if len(self._fragment) + len(data) > BLOCK_SIZE:
                self._end_fragment()
            known = self._tails[key] = (self._fragment_count, len(self._fragment))
            self._fragment += data
        return known

    def flush(self) -> None:
        """Let each `done` that waits be called, of files of a block or more."""
        self._queue.flush()

    def finish(self) -> None:
        """Write all that waits."""
        self._end_fragment()
        self._queue.flush()

    def _end_fragment(self) -> None:
        if not self._fragment:
            return
        plain = bytes(self._fragment)
        self._fragment.clear()
        self._fragment_count += 1
        self._queue.put(plain, lambda word, data: self.fragments.append(self._place_fragment(word, data, len(plain))))

    def place_blocks(self, size: int, start: int, words: tuple[int, ...], crc: int) -> int:
        """Where the blocks from `start` to the end are to stay: there, or where they are already.

        A CRC costs a tenth of a hash, and what it takes for equal is read again. Somebody who makes many files of one
        CRC gets them compared with a few only.
        """
        starts = self._blocks.setdefault((size, crc, words), [])
        length = self.position - start
        for known in starts[:MOST_COMPARED]:
            if self._is_same(known, start, length):
                if length:
                    self._truncate(start)
                    self.position = start
                return known
        starts.append(start)
        return start

    def _is_same(self, one: int, other: int, length: int) -> bool:
        for at in range(0, length, COMPARED):
            size = min(COMPARED, length - at)
            if self._read(one + at, size) != self._read(other + at, size):
                return False
        return True

    def _place_fragment(self, word: int, data: bytes, size: int) -> PackFragment:
        start = self.position
        self.append(data)
        return PackFragment(start, word, size)

    def append(self, data: bytes) -> None:
        self._write(data)
        self.position += len(data)


class _BlockFile:
    """A file of a block or more, on its way through the queue."""

    def __init__(self, writer: DataWriter, size: int, done: Callable[[Placement], None]) -> None:
        self._writer, self._size, self._done = writer, size, done
        self._start = 0
        self._words: list[int] = []
        self._sparse = 0
        self._crc = 0

    def add(self, blocks: Iterable[bytes]) -> None:
        queue = self._writer._queue
        queue.then(self._begin)
        for block in blocks:
            if block[0] == 0 and block[-1] == 0 and block == (_ZERO if len(block) == BLOCK_SIZE else bytes(len(block))):
                queue.then(partial(self._hole, len(block)))
            else:
                queue.put(block, self._block)
        queue.then(self._end)

    def _begin(self) -> None:
        self._start = self._writer.position

    def _hole(self, size: int) -> None:
        self._words.append(0)
        self._sparse += size

    def _block(self, word: int, data: bytes) -> None:
        self._words.append(word)
        self._crc = crc32(data, self._crc)
        self._writer.append(data)

    def _end(self) -> None:
        words = tuple(self._words)
        start = self._writer.place_blocks(self._size, self._start, words, self._crc)
        self._done(Placement(self._size, start, words, NO_FRAGMENT, 0, self._sparse))


def write_pack(
    file: BinaryIO,
    name: str,
    plain: Iterable[bytes],
    compress: Callable[[bytes], bytes],
    pool: ThreadPoolExecutor,
    depth: int,
) -> Pack:
    """Write the pack of a layer, whose plain tar stream is `plain`, to `file` from its start; read `plain` to its end.

    Blocks are compressed on `pool`. Raises InvalidImage for a stream that is no layer, UnsupportedImage for one with
    too many members; `file` is then of no use.
    """
    file.write(MAGIC)

    def truncate(position: int) -> None:
        file.seek(position)
        file.truncate()

    def read(position: int, size: int) -> bytes:
        file.seek(position)
        data = file.read(size)
        file.seek(0, 2)
        return data

    writer = DataWriter(file.write, read, truncate, len(MAGIC), compress, pool, depth)
    stream = tar.ByteStream(plain)
    reader = tar.TarReader(stream)
    entries: list[layer.Entry] = []
    places: dict[int, Placement] = {}
    room = MAX_ENTRIES
    try:
        for member in reader:
            item = layer.entry(member)
            if item is None:
                continue
            room -= ENTRY_COST + len(item.path) + len(item.target) + sum(len(k) + len(v) for k, v in item.xattrs)
            if room < 0:
                raise UnsupportedImage(
                    f"a layer whose members' names and attributes take more than {MAX_ENTRIES} bytes"
                )
            if item.kind == fstree.REGULAR:
                at = len(entries)
                writer.add(member.size, reader.blocks(BLOCK_SIZE), partial(places.__setitem__, at))
            entries.append(item)
    except InvalidImage as error:
        raise InvalidImage(f"{error.message}, at byte {stream.at} of the tar", hint=error.hint) from None
    stream.drain()
    writer.finish()
    for at, place in places.items():
        entries[at] = layer.Entry._make((*entries[at][:-1], place))
    pack = Pack(name, tuple(entries), tuple(writer.fragments))
    index = _compress_index(pack)
    start = writer.position
    file.write(index)
    file.write(_TRAILER.pack(start, len(index), sha256(index).digest()))
    return pack


def read_pack(read_at: Callable[[int, int], bytes], size: int, name: str) -> Pack:
    """The index of the pack in a file of `size` bytes; read_at(offset, length) reads it.

    Raises InvalidImage where it is damaged, incomplete, or stands under another name than its own.
    """
    end = size - _TRAILER.size
    if end < len(MAGIC) or read_at(0, len(MAGIC)) != MAGIC:
        raise InvalidImage(f"pack {name} is no pack of this version")
    trailer = read_at(end, _TRAILER.size)
    if len(trailer) != _TRAILER.size:
        raise InvalidImage(f"pack {name} is incomplete")
    start, length, digest = _TRAILER.unpack(trailer)
    if start < len(MAGIC) or start + length != end:
        raise InvalidImage(f"pack {name} is incomplete")
    index = read_at(start, length)
    if sha256(index).digest() != digest:
        raise InvalidImage(f"pack {name} is damaged")
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(index, MAX_INDEX)
        if inflater.unconsumed_tail:
            raise InvalidImage(f"pack {name} has an index beyond {MAX_INDEX} bytes")
        value = json.loads(plain)
        del plain, index  # of many files they are large, and what follows is larger
        pack = _decode(value, start)
    except (zlib.error, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InvalidImage(f"pack {name} is damaged: {error}") from None
    if pack.name != name:
        raise InvalidImage(f"pack {name} is really {pack.name[:200]}")
    return pack


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _compress_index(pack: Pack) -> bytes:
    """The index, made and compressed in pieces: as a whole, a layer of 300,000 files has one of 200 MB in memory."""
    files: dict[Placement, int] = {}
    for item in pack.entries:
        if item.data is not None:
            files.setdefault(item.data, len(files))
    packer, out, size = zlib.compressobj(1), [], 0
    for piece in _encode(pack, files):
        size += len(piece)
        if size > MAX_INDEX:
            raise UnsupportedImage(f"a layer whose index takes more than {MAX_INDEX} bytes")
        out.append(packer.compress(piece))
    return b"".join([*out, packer.flush()])


def _encode(pack: Pack, files: dict[Placement, int]) -> Iterator[bytes]:
    """The JSON text of the index, in pieces. files: in their order, which is the order of their numbers."""
    yield b'{"name":%b,"files":[' % _json(pack.name)
    yield from _items(files)
    yield b'],"fragments":['
    yield from _items(pack.fragments)
    yield b'],"entries":['
    yield from _items(
        [
            _text(item.path), *item[1:6], [[_text(k), _text(v)] for k, v in item.xattrs], _text(item.target), item.rdev,
            None if item.data is None else files[item.data],
        ]
        for item in pack.entries
    )  # fmt: skip
    yield b"]}"


def _items(values: Iterable[object]) -> Iterator[bytes]:
    """What stands between the brackets of a JSON array."""
    rest, comma = iter(values), b""
    while some := list(islice(rest, 1000)):
        yield comma + _json(some)[1:-1]
        comma = b","


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decode(value: Any, end: int) -> Pack:
    fragments = tuple(PackFragment(int(start), int(word), int(size)) for start, word, size in value["fragments"])
    for fragment in fragments:
        _check_range(fragment.start, fragment.word & (STORED_MASK), end)
    files = []
    for size, start, words, fragment, offset, sparse in value["files"]:
        _check_range(start, sum(word & STORED_MASK for word in words), end)
        if words and len(words) != -(-size // BLOCK_SIZE):
            raise ValueError("a file whose blocks are not as many as its size says")
        if (
            not words
            and size
            and not (0 <= fragment < len(fragments) and 0 <= offset <= fragments[fragment].size - size)
        ):
            raise ValueError("a file outside its fragment")
        files.append(Placement(size, start, tuple(words), fragment, offset, sparse))
    entries = value["entries"]  # each row gives its place to what it says
    for number, (path, kind, mode, uid, gid, mtime, xattrs, target, (major, minor), at) in enumerate(entries):
        pairs = tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in xattrs)
        data = None if at is None else files[at]
        if (kind == fstree.REGULAR) != (at is not None):
            raise ValueError("a file without data, or data of what is no file")
        known = (path.encode("latin-1"), kind, mode, uid, gid, mtime, pairs, target.encode("latin-1"), (major, minor))
        entries[number] = layer.Entry._make((*known, data))
    return Pack(str(value["name"]), tuple(entries), fragments)


STORED_MASK = (1 << 24) - 1


def _check_range(start: int, length: int, end: int) -> None:
    if (start < len(MAGIC) and length) or start < 0 or start + length > end:
        raise ValueError("data outside the pack")
