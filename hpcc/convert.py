"""Layers to packs, packs to one SIF; no root filesystem is made on disk.

A SIF is always assembled from packs, whether they were made now or years ago, so its bytes do not depend on what
a cache held. Only data that the merged tree still names are copied: a file that an upper layer deletes is in no byte
of the SIF. A fragment block that holds such a file is taken apart, and what lives of it goes into new blocks.

    SIF       header · definition file · JSON objects · padding to 4096 · SquashFS
    SquashFS  superblock · live ranges of pack 1, 2, … · new fragment blocks · tables
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from hpcc import fstree, metadata
from hpcc.blocks import read_ahead
from hpcc.compressors import BLOCK_SIZE, Compressor
from hpcc.errors import IntegrityError, PolicyError
from hpcc.oci import layer
from hpcc.oci.compression import decompress
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.origin import Origin
from hpcc.pack import STORED_MASK, DataWriter, Pack, write_pack
from hpcc.progress import SILENT, Part, Progress
from hpcc.records import NamedTuple
from hpcc.sif import create, descriptor
from hpcc.squashfs import superblock
from hpcc.squashfs.compression import decompressor
from hpcc.squashfs.fragment import Fragment
from hpcc.squashfs.inode import NO_FRAGMENT, Placement
from hpcc.squashfs.writer import encode_tables

QUEUE_DEPTH = 32  # blocks of a layer that wait for compression: 4 MiB
COPIED = 64 << 20  # bytes that are copied at a time, between two words about progress


def pack_name(diff_id: Digest, converter: str) -> str:
    """The name of a layer's pack in a cache."""
    return f"{diff_id.algorithm}-{diff_id.hex}-{converter}"


def convert_layer(
    chunks: Iterable[bytes],
    diff_id: Digest,
    out: BinaryIO,
    compressor: Compressor,
    pool: ThreadPoolExecutor,
    most: int = 0,
) -> Pack:
    """Write the pack of the layer whose blob is `chunks` to `out`, and check the layer's diff id.

    Reads `chunks` to their end. Raises InvalidImage or IntegrityError, PolicyError where the layer unpacks to more than
    `most` bytes (0: any number); what was written is then to be thrown away.
    """
    import hashlib

    if diff_id.algorithm not in ("sha256", "sha512"):
        raise IntegrityError(f"layer {diff_id} has a digest that hpcc cannot check")
    plain_hash = hashlib.new(diff_id.algorithm)
    source = iter(chunks)

    def plain() -> Iterator[bytes]:
        size = 0
        for piece in decompress(source):
            size += len(piece)
            if 0 < most < size:
                raise PolicyError(
                    f"a layer unpacks to more than {most / 1e9:g} GB, the most that is allowed here",
                    hint="Where the image is to be trusted, raise the setting: HPCC_MAX_LAYER=500GB.",
                )
            yield piece
        for _ in source:  # what stands behind the compressed stream still counts for the blob's digest
            pass

    def hashed(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            plain_hash.update(piece)
            yield piece

    unpacked = read_ahead(plain())
    pieces = read_ahead(hashed(unpacked))  # a thread for each of the two, beside those that parse and compress
    try:
        pack = write_pack(out, pack_name(diff_id, compressor.id), pieces, compressor.compress, pool, QUEUE_DEPTH)
    finally:
        pieces.close()
        unpacked.close()  # its thread reads `chunks`, which are the caller's again from here on
    if plain_hash.hexdigest() != diff_id.hex:
        raise IntegrityError(
            f"a layer unpacks to {diff_id.algorithm}:{plain_hash.hexdigest()}, but the image's config says {diff_id}",
            hint="The image is broken or was tampered with; ask whoever pushed it.",
        )
    return pack


class OpenPack(NamedTuple):
    pack: Pack
    fd: int


class _Source(NamedTuple):
    """Where a live file's data are before they are copied."""

    pack: int
    place: Placement


def assemble(
    fd: int,
    packs: Sequence[OpenPack],
    origin: Origin,
    config: ImageConfig,
    compressor: Compressor,
    pool: ThreadPoolExecutor,
    progress: Progress = SILENT,
) -> None:
    """Write the SIF of an image to the empty file `fd`, from the packs of its layers, lowest first."""
    root = layer.merge(each.pack.entries for each in packs)
    metadata.add_directory(root, origin, config, lambda data: data)
    nodes = list({id(node): node for _, node in root.walk()}.values())
    # Equal placements of two packs are two objects, which live as long as the packs.
    pack_of = {id(item.data): index for index, each in enumerate(packs) for item in each.pack.entries}
    for node in nodes:
        if isinstance(node.data, Placement):
            node.data = _Source(pack_of[id(node.data)], node.data)
    owners = tuple(sorted({node.uid for node in nodes} | {node.gid for node in nodes}))

    parts = [
        create.Object(descriptor.DEFFILE, "definition-file", len(metadata.definition_file(origin))),
        *(
            create.Object(descriptor.GENERIC_JSON, name, len(data))
            for name, data in metadata.objects(origin, config, owners)
        ),
    ]
    bodies = [metadata.definition_file(origin), *(data for _, data in metadata.objects(origin, config, owners))]
    start = _layout(parts, 0, config.architecture).offsets[-1]

    data = _Data(fd, start, packs, compressor, pool, progress)
    data.copy_live([node.data for node in nodes if isinstance(node.data, _Source)])
    on_disk = pool.submit(os.fsync, fd)  # whoever publishes it waits for the disk, so let that begin now
    for node in nodes:
        if node.kind == fstree.REGULAR:
            node.data = data.place(node.data)
    fragments = data.finish()
    tables = encode_tables(
        root,
        fragments,
        data_end=data.end,
        compressor=compressor.squashfs_id,
        compress=compressor.compress,
        block_size=BLOCK_SIZE,
        mtime=metadata.created(config)[1],
    )
    _write_at(fd, start + data.end, tables.tables)
    _write_at(fd, start, tables.head)
    layout = _layout(parts, data.end + len(tables.tables), config.architecture)
    _write_at(fd, 0, layout.head)
    for body, offset in zip(bodies, layout.offsets, strict=False):
        _write_at(fd, offset, body)
    on_disk.result()


def _layout(parts: Sequence[create.Object], size: int, architecture: str) -> create.Layout:
    extra = descriptor.partition_extra(descriptor.FS_SQUASHFS, descriptor.PART_PRIMARY_SYSTEM, architecture)
    partition = create.Object(descriptor.PARTITION, "rootfs", size, extra, 4096)
    return create.layout([*parts, partition], arch=architecture)


class _Data:
    """The data region of the SquashFS image that begins at `start` of the file `fd`.

    Offsets are relative to `start`. First copy_live, then place for each file, then finish.
    """

    def __init__(
        self,
        fd: int,
        start: int,
        packs: Sequence[OpenPack],
        compressor: Compressor,
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._fd, self._start, self._packs, self._compressor = fd, start, packs, compressor
        self._pool, self._progress = pool, progress
        self._fragments: list[Fragment] = []
        self._blocks: dict[tuple[int, int], int] = {}  # pack, start in it -> start here
        self._copied: dict[tuple[int, int], int] = {}  # pack, fragment of it -> fragment here
        self._tails: dict[_Source, Placement] = {}  # of fragments that were taken apart
        self.end = superblock.SIZE + len(superblock.encode_options(compressor.squashfs_id))
        self._writer: DataWriter | None = None

    def copy_live(self, sources: Iterable[_Source]) -> None:
        """Copy the blocks that `sources` name, and fragments that live wholly; then take the others apart."""
        files: list[dict[int, int]] = [{} for _ in self._packs]  # start -> length on disk
        tails: list[dict[int, dict[int, _Source]]] = [{} for _ in self._packs]  # fragment -> offset -> a source there
        for source in sources:
            place = source.place
            if place.blocks:
                # A file that is one hole has no data, and shares its start with whatever comes next.
                if length := sum(word & STORED_MASK for word in place.blocks):
                    files[source.pack][place.start] = length
            elif place.fragment != NO_FRAGMENT:
                tails[source.pack].setdefault(place.fragment, {})[place.offset] = source
        broken: list[tuple[int, int, dict[int, _Source]]] = []
        ranges: list[list[tuple[int, int, int]]] = []  # of each pack: start, length, fragment or -1
        for index, each in enumerate(self._packs):
            ranges.append([(start, length, -1) for start, length in files[index].items()])
            for number, live in sorted(tails[index].items()):
                fragment = each.pack.fragments[number]
                if sum(source.place.size for source in live.values()) == fragment.size:
                    ranges[-1].append((fragment.start, fragment.word & STORED_MASK, number))
                else:
                    broken.append((index, number, live))
        total = sum(length for each in ranges for _, length, _ in each)
        self._progress.stage("Converting", total)
        part = self._progress.part("", total)
        for index, some in enumerate(ranges):
            self._copy_ranges(index, sorted(some), part)
        for index, number, live in broken:
            self._take_apart(index, number, live)

    def _copy_ranges(self, index: int, ranges: Sequence[tuple[int, int, int]], part: Part) -> None:
        """Copy (start, length, fragment or -1) of a pack; neighbours in one call."""
        pack, source = self._packs[index].pack, self._packs[index].fd
        run_start = run_length = 0
        for start, length, number in ranges:
            if number < 0:
                self._blocks[index, start] = self.end
            else:
                self._copied[index, number] = len(self._fragments)
                self._fragments.append(Fragment(self.end, pack.fragments[number].word))
            if start != run_start + run_length:
                self._copy(source, run_start, self.end - run_length, run_length, part)
                run_start, run_length = start, 0
            run_length += length
            self.end += length
        self._copy(source, run_start, self.end - run_length, run_length, part)

    def _copy(self, source: int, offset: int, to: int, length: int, part: Part) -> None:
        for done in range(0, length, COPIED):
            some = min(COPIED, length - done)
            copy_range(source, self._fd, offset + done, self._start + to + done, some)
            part.advance(some)

    def _take_apart(self, index: int, number: int, live: dict[int, _Source]) -> None:
        fragment = self._packs[index].pack.fragments[number]
        data = os.pread(self._packs[index].fd, fragment.word & STORED_MASK, fragment.start)
        if len(data) < fragment.word & STORED_MASK:
            raise _cut_short()
        if fragment.word == fragment.word & STORED_MASK:
            data = decompressor(self._compressor.squashfs_id)(data, BLOCK_SIZE)
        for offset, source in sorted(live.items()):
            self._tails[source] = self._place_new(data[offset : offset + source.place.size])

    def place(self, data: object) -> Placement:
        """The final place of a file: of a source that was copied, or of new bytes."""
        if isinstance(data, bytes):
            return self._place_new(data)
        assert isinstance(data, _Source)
        index, place = data
        if place.blocks:
            return place._replace(start=0 if place.sparse == place.size else self._blocks[index, place.start])
        if place.fragment == NO_FRAGMENT:
            return place
        copied = self._copied.get((index, place.fragment))
        if copied is not None:
            return place._replace(fragment=copied)
        return self._tails[data]

    def _place_new(self, data: bytes) -> Placement:
        if not data:
            return Placement(0)
        if self._writer is None:
            self._writer = DataWriter(
                self._append, self._read, self._truncate, self.end, self._compressor.compress, self._pool, QUEUE_DEPTH
            )
        if len(data) >= BLOCK_SIZE:  # labels may be that long
            places: list[Placement] = []
            self._writer.add(len(data), _blocks(data), places.append)
            self._writer.flush()
            return places[0]
        fragment, offset = self._writer.add_tail(data)
        return Placement(len(data), fragment=len(self._fragments) + fragment, offset=offset)

    def _append(self, data: bytes) -> None:
        _write_at(self._fd, self._start + self.end, data)
        self.end += len(data)

    def _read(self, position: int, size: int) -> bytes:
        return os.pread(self._fd, size, self._start + position)

    def _truncate(self, position: int) -> None:
        os.ftruncate(self._fd, self._start + position)
        self.end = position

    def finish(self) -> list[Fragment]:
        if self._writer is not None:
            self._writer.finish()
            self._fragments += [Fragment(each.start, each.word) for each in self._writer.fragments]
        return self._fragments


def _blocks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), BLOCK_SIZE):
        yield data[at : at + BLOCK_SIZE]


def _cut_short() -> IntegrityError:
    return IntegrityError("a pack ends before its index says so", hint="Run `hpcc cache clean`, then again.")


def copy_range(source: int, target: int, offset: int, to: int, length: int) -> None:
    """Copy bytes between files by copy_file_range(2), by read and write where the filesystems cannot."""
    while length:
        try:
            done = os.copy_file_range(source, target, length, offset, to)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
            data = os.pread(source, min(length, 1 << 20), offset)
            _write_at(target, to, data)
            done = len(data)
        if not done:
            raise _cut_short()
        offset, to, length = offset + done, to + done, length - done


def _write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
