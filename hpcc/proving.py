"""Whether one object of a cache is what its name says.

blob   it hashes to its name
pack   it is made again from its layer, where that is kept, and compared; else its index is whole and each block
       decompresses. A block that is stored as it is has no checksum: only the first way finds a changed bit in one.
SIF    its key is its name and follows from what it says of itself. It is assembled again from packs and blobs where
       they are kept, and compared; else everything in it is read, and has to decompress.
"""

import errno
import functools
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from hpcc import fstree
from hpcc.blocks import STORED
from hpcc.cache.blobs import read_blob
from hpcc.cache.contents import Item
from hpcc.cache.intake import CHUNK, hashes_to
from hpcc.cache.layout import Cache
from hpcc.compressors import BLOCK_SIZE, Compressor, compressor_of
from hpcc.convert import OpenPack, assemble, convert_layer, pack_name
from hpcc.errors import CacheError, HpccError, IntegrityError, InvalidImage, InvalidReference, UnsupportedImage
from hpcc.local import open_local, read_json
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor, Manifest, parse_manifest
from hpcc.origin import MARK, Origin
from hpcc.pack import STORED_MASK, Pack, read_pack
from hpcc.records import NamedTuple
from hpcc.sources.growing import cached_chunks
from hpcc.squashfs.compression import NAMES, Decompress, decompressor
from hpcc.squashfs.reader import open_squashfs

_compressor_of = functools.cache(compressor_of)
_NUMBERS = {name: number for number, name in NAMES.items()}  # of formats, as converter ids name them


class Bench(NamedTuple):
    """What the proofs of one cache share. layers: the blob that unpacks to a diff id.

    Paths: damaged are not to be used; proven are packs that were compared with their layers, or gave a SIF; doubtful
    are packs that give another SIF than there is. Of one that is doubtful and not proven, it or the SIF is damaged.
    """

    cache: Cache
    readable: tuple[Cache, ...]
    pool: ThreadPoolExecutor
    layers: dict[Digest, Descriptor]
    damaged: set[str]
    proven: set[str]
    doubtful: set[str]


def problem_of(bench: Bench, item: Item) -> str:
    """What is wrong with the object, "" for nothing; also where it vanished meanwhile. OSError where it cannot be read.

    CacheError where a copy to compare it with cannot be written.
    """
    try:
        fd = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "it is a link"
        raise
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "it is no regular file"
        try:
            return _PROOFS[item.kind](bench, file, item)
        except CacheError:
            raise
        except HpccError as error:
            return error.message


def _prove_blob(bench: Bench, file: BinaryIO, item: Item) -> str:
    algorithm = os.path.basename(os.path.dirname(item.path))
    try:
        digest = Digest.parse(f"{algorithm}:{item.key}")
    except InvalidReference:
        return "its name is no digest"
    return "" if hashes_to(file, digest) else "its bytes are not those of its digest"


def _prove_pack(bench: Bench, file: BinaryIO, item: Item) -> str:
    fd = file.fileno()
    try:
        algorithm, value, _ = item.key.split("-", 2)
        diff_id = Digest.parse(f"{algorithm}:{value}")
    except (ValueError, InvalidReference):
        return "its name is none of a pack"
    pack = _read_pack(fd, item)
    converter = pack.name.split("-", 2)[2]
    compressor = _compressor_of(converter)
    if compressor is not None and diff_id in bench.layers:
        with _scratch(bench.cache) as made:
            if _make_pack(bench, diff_id, made, compressor) is not None:
                bench.proven.add(item.path)
                return "" if _same(fd, made.fileno()) else "its bytes are not those that its layer gives"
    unpack = _decompressor_of(converter)
    if unpack is not None:
        _read_blocks(fd, pack, unpack)
    return ""


def _decompressor_of(converter: str) -> Decompress | None:
    """For blocks that this converter made; None for one of a format that there is not.

    OSError where this installation cannot read them, which says nothing against them.
    """
    number = _NUMBERS.get(converter.partition("-")[2].partition("-")[0])
    try:
        return None if number is None else decompressor(number)
    except UnsupportedImage as error:
        raise OSError(errno.EOPNOTSUPP, error.message) from None


def _read_pack(fd: int, item: Item) -> Pack:
    """Under its own name, or under the one beside which it stands."""
    size = os.fstat(fd).st_size
    stem, dot, rest = item.name.rpartition(f".{item.owner}")
    names = (item.name, stem + rest) if dot else (item.name,)
    for name in names[:-1]:
        try:
            return read_pack(lambda offset, length: os.pread(fd, length, offset), size, name)
        except InvalidImage:
            continue
    return read_pack(lambda offset, length: os.pread(fd, length, offset), size, names[-1])


def _make_pack(bench: Bench, diff_id: Digest, out: BinaryIO, compressor: Compressor) -> Pack | None:
    """The pack of a layer anew, from its blob; None where no sound blob of it is there."""
    layer = bench.layers.get(diff_id)
    chunks = cached_chunks(bench.readable, layer) if layer is not None else None
    if chunks is None:
        return None
    try:
        pack = convert_layer(chunks, diff_id, out, compressor, bench.pool)
    except (IntegrityError, InvalidImage):
        return None
    out.flush()
    return pack


def _read_blocks(fd: int, pack: Pack, unpack: Callable[[bytes, int], bytes]) -> None:
    """Raises InvalidImage for a block that does not give the bytes that it should."""
    for fragment in pack.fragments:
        _read_block(fd, fragment.start, fragment.word, fragment.size, unpack)
    for place in {item.data for item in pack.entries if item.kind == fstree.REGULAR and item.data is not None}:
        at, left = place.start, place.size
        for word in place.blocks:
            length = min(BLOCK_SIZE, left)
            if word:
                _read_block(fd, at, word, length, unpack)
            at, left = at + (word & STORED_MASK), left - length


def _read_block(fd: int, at: int, word: int, length: int, unpack: Callable[[bytes, int], bytes]) -> None:
    data = os.pread(fd, word & STORED_MASK, at)
    if len(data if word & STORED else unpack(data, length)) != length:
        raise InvalidImage(f"its block at {at} has another size than its index says")


def _prove_sif(bench: Bench, file: BinaryIO, item: Item) -> str:
    fd = file.fileno()
    image = open_local(item.path, fd=fd, cache=bench.cache.root)
    if image.sif is None:
        return "it is no SIF"
    mark = read_json(image.sif, fd, MARK) or {}
    name, _, digest = str(mark.get("reference", "")).rpartition("@")
    origin = Origin(name, digest, str(mark.get("platform", "")), str(mark.get("converter", "")))
    if image.key != item.key or origin.key != image.key:
        return "it is another image than its name says"
    compressor = _compressor_of(origin.converter)
    if compressor is not None:
        with ExitStack() as stack:
            used: set[str] = set()
            made = _assemble(bench, origin, compressor, stack, used)
            if made is not None:
                if _same(fd, made.fileno()):
                    bench.proven.update(used)
                    return ""
                bench.doubtful.update(used)
                return "its bytes are not those that its layers give"
    _decompressor_of(origin.converter)
    start = image.rootfs.offset
    squashfs = open_squashfs(lambda offset, length: os.pread(fd, length, start + offset), image.rootfs.size)
    for _, inode in squashfs.walk():
        if inode.kind == fstree.REGULAR:
            for _ in squashfs.read(inode):
                pass
    return ""


def _assemble(
    bench: Bench, origin: Origin, compressor: Compressor, stack: ExitStack, used: set[str]
) -> BinaryIO | None:
    """The SIF anew, from sound packs and blobs; None where they are not all there. used: paths of the packs."""
    try:
        manifest = parse_manifest(read_blob(bench.readable, Digest.parse(origin.digest)) or b"{}")
        if not isinstance(manifest, Manifest):
            return None
        config = ImageConfig.parse(read_blob(bench.readable, manifest.config.digest) or b"")
    except HpccError:
        return None
    packs: dict[Digest, OpenPack] = {}
    for diff_id in dict.fromkeys(config.diff_ids):
        pack = _open_pack(bench, diff_id, compressor, stack, used)
        if pack is None:
            return None
        packs[diff_id] = pack
    made = stack.enter_context(_scratch(bench.cache))
    every = [packs[diff_id] for diff_id in config.diff_ids]
    assemble(made.fileno(), every, origin, config, compressor, bench.pool)
    return made


def _open_pack(
    bench: Bench, diff_id: Digest, compressor: Compressor, stack: ExitStack, used: set[str]
) -> OpenPack | None:
    name = pack_name(diff_id, compressor.id)
    for cache in bench.readable:
        path = cache.pack(name)
        fd = cache.open(path) if path not in bench.damaged else None
        if fd is None:
            continue
        file = stack.enter_context(open(fd, "rb", buffering=0))
        try:
            found = OpenPack(_open_named(file.fileno(), name), file.fileno())
        except InvalidImage:
            continue
        used.add(os.readlink(f"/proc/self/fd/{found.fd}"))
        return found
    made = stack.enter_context(_scratch(bench.cache))
    pack = _make_pack(bench, diff_id, made, compressor)
    return None if pack is None else OpenPack(pack, made.fileno())


def _open_named(fd: int, name: str) -> Pack:
    return read_pack(lambda offset, length: os.pread(fd, length, offset), os.fstat(fd).st_size, name)


@contextmanager
def _scratch(cache: Cache) -> Iterator[BinaryIO]:
    """A file that is gone at the end: in the cache, where there should be room; elsewhere where it is read-only."""
    if os.access(cache.root, os.W_OK):
        with cache.temporary() as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            yield file


def _same(one: int, other: int) -> bool:
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    at = 0
    while data := os.pread(one, CHUNK, at):
        if data != os.pread(other, len(data), at):
            return False
        at += len(data)
    return at == os.fstat(other).st_size


_PROOFS = {"blob": _prove_blob, "pack": _prove_pack, "sif": _prove_sif}
