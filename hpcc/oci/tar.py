"""Read a tar archive from a stream, once, from front to back.

Understood: v7, ustar, GNU (long names, base-256 numbers, sparse files) and PAX (also global headers,
SCHILY.xattr, GNU.sparse 0.0, 0.1 and 1.0); POSIX.1-2017 pax(1), and GNU tar's manual, "Tar Internals".

    one member:   header, 512 bytes
                  data, padded to 512
    the end:      two blocks of zeros, or the end of the stream

    off  size  header field        off  size
      0   100  name                257     6  magic "ustar"
    100     8  mode                265    32  uname
    108     8  uid                 297    32  gname
    116     8  gid                 329     8  device major
    124    12  size                337     8  device minor
    136    12  mtime               345   155  prefix (ustar); GNU: sparse map at 386,
    148     8  checksum                       "more follows" at 482, real size at 483
    156     1  type
    157   100  link name

Names are bytes, whatever their encoding. Nothing is interpreted here: see layer.py.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.records import NamedTuple

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of one PAX header or GNU long name; xattrs of Linux end at 64 KiB
MAX_SPARSE = (
    1 << 40
)  # bytes of an archive's sparse files: holes cost memory in the tables, so somebody must set a bound
ZERO = bytes(BLOCK)

REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = frozenset(b"0\x007S")
_KNOWN_TYPES = frozenset(b"123456")


class Member(NamedTuple):
    """One member as the archive has it; `type` is one of the constants above."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int  # bytes of the file, holes included; 0 for all that is not a regular file
    target: bytes  # of links
    rdev: tuple[int, int]
    xattrs: dict[bytes, bytes]


class ByteStream:
    """Exact reads from an iterable of chunks of any size; `at` is how many bytes were asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._position = 0
        self.at = 0

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        start = self._position
        end = start + size
        self.at += size
        if end <= len(self._chunk):
            self._position = end
            return self._chunk[start:end]
        parts = [self._chunk[start:]]
        missing = size - len(parts[0])
        self._chunk, self._position = b"", 0
        while missing:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            if len(chunk) > missing:
                self._chunk, self._position = chunk, missing
                chunk = chunk[:missing]
            parts.append(chunk)
            missing -= len(chunk)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; how many there were, fewer only at the end of the stream."""
        left = size
        while left and (data := self.read(min(left, 1 << 20))):
            left -= len(data)
        return size - left

    def drain(self) -> None:
        """Read and forget all that is left, so that whoever hashes the stream sees each byte."""
        self._chunk, self._position = b"", 0
        for _ in self._chunks:
            pass


class TarReader:
    """Iterate over the members; `blocks` reads the data of the member that came last.

    What of a member's data was not read is skipped by the next step.
    Raises InvalidImage for all that is no tar archive.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._left = 0  # bytes of stored data not read yet, padding excluded
        self._padding = 0
        self._size = 0
        self._sparse: list[tuple[int, int]] | None = None
        self._sparse_total = 0

    def __iter__(self) -> Iterator[Member]:
        defaults: dict[bytes, bytes] = {}
        while (header := self._header()) is not None:
            pax: dict[bytes, bytes] = {}
            sparse_pairs: list[bytes] = []
            room = 2 * MAX_EXTENDED
            while header[156:157] in (b"x", b"g", b"L", b"K"):
                kind = header[156:157]
                body = self._extended(header)
                room -= BLOCK + len(body)
                if room < 0:
                    raise InvalidImage(f"a member with more than {2 * MAX_EXTENDED} bytes of extended headers")
                if kind == b"L":
                    pax[b"path"] = body.split(b"\0", 1)[0]
                elif kind == b"K":
                    pax[b"linkpath"] = body.split(b"\0", 1)[0]
                elif kind == b"x":
                    pax.update(_pax_records(body, sparse_pairs))
                else:
                    defaults.update(_pax_records(body, []))
                    if sum(len(key) + len(value) for key, value in defaults.items()) > MAX_EXTENDED:
                        raise InvalidImage(f"global extended headers of more than {MAX_EXTENDED} bytes")
                following = self._header()
                if following is None:
                    raise InvalidImage("the archive ends after an extended header")
                header = following
            # An empty value deletes the key, also where a global header has it; an empty xattr is one.
            pax = {key: value for key, value in (defaults | pax).items() if value or key.startswith(b"SCHILY.xattr.")}
            yield self._member(header, pax, sparse_pairs)

    @property
    def is_sparse(self) -> bool:
        """Whether the last member has holes, so that its bytes do not stand in the stream as they are."""
        return self._sparse is not None

    def blocks(self, block_size: int) -> Iterator[bytes]:
        """The data of the last member, `block_size` bytes at a time, the last block shorter; holes are zeros."""
        if self._sparse is not None:
            yield from self._sparse_blocks(block_size)
            return
        while self._left:
            data = self._data(min(block_size, self._left))
            if not self._left:
                self._skip_padding()
            yield data

    def _sparse_blocks(self, block_size: int) -> Iterator[bytes]:
        regions = self._sparse or []
        self._sparse = None
        hole = bytes(block_size)
        index = 0
        for start in range(0, self._size, block_size):
            length = min(block_size, self._size - start)
            while index < len(regions) and regions[index][0] + regions[index][1] <= start:
                index += 1
            if index == len(regions) or regions[index][0] >= start + length:
                yield hole if length == block_size else hole[:length]
                continue
            block = bytearray(length)
            at = index
            while at < len(regions) and regions[at][0] < start + length:
                begin = max(regions[at][0], start)
                end = min(regions[at][0] + regions[at][1], start + length)
                block[begin - start : end - start] = self._data(end - begin)
                at += 1
            yield bytes(block)
        self._skip()

    def _data(self, size: int) -> bytes:
        if size > self._left:
            raise InvalidImage("a sparse file's map names more data than the archive has for it")
        data = self._stream.read(size)
        if len(data) < size:
            raise InvalidImage("the archive ends in the middle of a file")
        self._left -= size
        return data

    def _skip_padding(self) -> None:
        if len(self._stream.read(self._padding)) < self._padding:
            raise InvalidImage("the archive ends in the middle of a file")
        self._padding = 0

    def _skip(self) -> None:
        if self._stream.skip(self._left) < self._left:
            raise InvalidImage("the archive ends in the middle of a file")
        self._left = 0
        self._skip_padding()

    def _header(self) -> bytes | None:
        """The next header, checked, or None at the end of the archive."""
        self._skip()
        header = self._stream.read(BLOCK)
        if not header:
            return None
        if header == ZERO:
            if self._stream.read(BLOCK) not in (b"", ZERO):
                raise InvalidImage("a block of zeros in the middle of the archive")
            return None
        if len(header) < BLOCK:
            raise InvalidImage("the archive ends in the middle of a header")
        stored = _number(header[148:156], "checksum")
        unsigned = sum(header) - sum(header[148:156]) + 8 * 32
        if stored != unsigned:
            signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
            if stored != signed:
                raise InvalidImage("a header's checksum is wrong; this is no tar archive, or it is damaged")
        return header

    def _extended(self, header: bytes) -> bytes:
        size = _number(header[124:136], "size")
        if not 0 <= size <= MAX_EXTENDED:
            raise InvalidImage(f"an extended header of {size} bytes; hpcc accepts {MAX_EXTENDED}")
        self._begin(size)
        return b"".join(self.blocks(MAX_EXTENDED))

    def _begin(self, stored: int) -> None:
        self._left, self._padding, self._sparse = stored, -stored % BLOCK, None

    def _member(self, header: bytes, pax: dict[bytes, bytes], sparse_pairs: list[bytes]) -> Member:
        ustar = header[257:263] == b"ustar\0"
        name = header[:100].split(b"\0", 1)[0]
        if ustar and (prefix := header[345:500].split(b"\0", 1)[0]):
            name = prefix + b"/" + name
        name = pax.get(b"path", name)
        kind = header[156:157]
        if kind[0] in _REGULAR_TYPES:
            directory = name.endswith(b"/") and kind == b"\0"  # v7 had no type for directories
            member_type = DIRECTORY if directory else REGULAR
        elif kind[0] in _KNOWN_TYPES:
            member_type = kind
        else:
            raise InvalidImage(f"{_show(name)}: a member of type {kind!r}, which no image layer may have")
        stored = _pax_number(pax, b"size") if b"size" in pax else _number(header[124:136], "size")
        if stored < 0:
            raise InvalidImage(f"{_show(name)}: a negative size")
        # Others than files have no data, whatever size old archives give to links; Docker reads them so too.
        size = stored if member_type == REGULAR else 0
        self._begin(stored if kind[0] in _REGULAR_TYPES else 0)
        if kind == b"S":
            size = self._gnu_sparse(header, name)
        elif member_type == REGULAR and any(key.startswith(b"GNU.sparse.") for key in pax):
            name = pax.get(b"GNU.sparse.name", name)
            size = self._pax_sparse(pax, sparse_pairs, name)
        self._size = size
        return Member(
            name,
            member_type,
            _number(header[100:108], "mode") & 0o7777,
            _identity(pax, b"uid", header[108:116], name),
            _identity(pax, b"gid", header[116:124], name),
            _mtime(pax, header[136:148]),
            size,
            pax.get(b"linkpath", header[157:257].split(b"\0", 1)[0]),
            _device(header, name) if member_type in (CHAR, BLOCKDEV) else (0, 0),
            {key[13:]: value for key, value in pax.items() if key.startswith(b"SCHILY.xattr.")},
        )

    def _gnu_sparse(self, header: bytes, name: bytes) -> int:
        size = _number(header[483:495], "real size")
        fields, more = header[386:482], header[482]
        numbers: list[int] = []
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at] == 0:
                    break
                numbers += [_number(fields[at : at + 12], "offset"), _number(fields[at + 12 : at + 24], "size")]
            if not more:
                break
            fields = self._stream.read(BLOCK)
            if len(fields) < BLOCK or len(numbers) > MAX_EXTENDED:
                raise InvalidImage(f"{_show(name)}: the map of a sparse file does not end")
            fields, more = fields[:504], fields[504]
        self._set_sparse(numbers, size, name)
        return size

    def _pax_sparse(self, pax: dict[bytes, bytes], pairs: list[bytes], name: bytes) -> int:
        size = _pax_number(pax, b"GNU.sparse.realsize" if b"GNU.sparse.realsize" in pax else b"GNU.sparse.size")
        if pax.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_map(name)
        else:
            fields = pax[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in pax else pairs
            numbers = [_decimal(field, "GNU.sparse.map") for field in fields]
        self._set_sparse(numbers, size, name)
        return size

    def _sparse_map(self, name: bytes) -> list[int]:
        """GNU.sparse 1.0: the map stands before the data, a number a line, padded to a block."""
        numbers: list[int] = []
        wanted, rest = 1, b""
        while len(numbers) < wanted:
            if self._left < BLOCK or len(rest) > 20:
                raise InvalidImage(f"{_show(name)}: the map of a sparse file does not end")
            *lines, rest = (rest + self._data(BLOCK)).split(b"\n")
            for line in lines:
                if len(numbers) == wanted:
                    break  # padding
                numbers.append(_decimal(line, "sparse map"))
                wanted = 1 + 2 * numbers[0]
                if wanted > MAX_EXTENDED:
                    raise InvalidImage(f"{_show(name)}: a sparse file of {numbers[0]} pieces")
        return numbers[1:]

    def _set_sparse(self, numbers: list[int], size: int, name: bytes) -> None:
        if size < 0:
            raise InvalidImage(f"{_show(name)}: a negative size")
        self._sparse_total += size
        if self._sparse_total > MAX_SPARSE:
            raise UnsupportedImage(
                f"{_show(name)}: a sparse file of {size} bytes; hpcc converts up to {MAX_SPARSE} in one layer"
            )
        regions = [(at, length) for at, length in zip(numbers[::2], numbers[1::2], strict=False) if length]
        end = 0
        for at, length in regions:
            if at < end or length < 0 or at + length > size:
                raise InvalidImage(f"{_show(name)}: the map of a sparse file is out of order or beyond its size")
            end = at + length
        self._sparse = regions


def _show(name: bytes) -> str:
    return ascii(name.decode("utf-8", "surrogateescape"))[1:-1][:200]


@lru_cache(4096)  # owners, modes and times repeat themselves
def _number(field: bytes, what: str) -> int:
    """Octal text, or GNU's base-256: first bit set, two's complement, big-endian."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        return value if field[0] != 0xFF else int.from_bytes(field, "big", signed=True)
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise InvalidImage(f"a tar header's {what} is {field!r}, no octal number")
    return int(text, 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise InvalidImage(f"{what} has {text[:40]!r} where a number belongs")
    return int(text)


def _pax_number(pax: dict[bytes, bytes], key: bytes) -> int:
    return _decimal(pax.get(key, b""), key.decode("ascii", "replace"))


def _identity(pax: dict[bytes, bytes], key: bytes, field: bytes, name: bytes) -> int:
    value = _pax_number(pax, key) if key in pax else _number(field, key.decode())
    if not 0 <= value < 1 << 32:
        raise InvalidImage(f"{_show(name)}: a {key.decode()} of {value}")
    return value


def _mtime(pax: dict[bytes, bytes], field: bytes) -> int:
    """Whole seconds, rounded down, within what SquashFS can hold (0 to 2**32 - 1)."""
    if b"mtime" in pax:
        text = pax[b"mtime"]
        whole, _, fraction = text.partition(b".")
        if not whole.removeprefix(b"-").isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
            raise InvalidImage(f"an mtime of {text[:40]!r}")
        value = int(whole) - (1 if whole.startswith(b"-") and fraction.strip(b"0") else 0)
    else:
        value = _number(field, "mtime")
    return min(max(value, 0), (1 << 32) - 1)


def _device(header: bytes, name: bytes) -> tuple[int, int]:
    major, minor = _number(header[329:337], "device"), _number(header[337:345], "device")
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise InvalidImage(f"{_show(name)}: device {major}:{minor} does not exist on Linux")
    return major, minor


def _pax_records(body: bytes, sparse_pairs: list[bytes]) -> dict[bytes, bytes]:
    """`length key=value\\n` records. GNU.sparse 0.0 repeats keys in order, so they go to `sparse_pairs`."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 21)
        if space < 0:
            raise InvalidImage("a PAX record without a length")
        length = _decimal(body[at:space], "a PAX record's length")
        record = body[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if at + length > len(body) or not record.endswith(b"\n") or not equals or not key:
            raise InvalidImage("a PAX record that does not parse")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse_pairs.append(value)
            records[b"GNU.sparse.pairs"] = b"yes"
        else:
            records[key] = value
        at += length
    return records
