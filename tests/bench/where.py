"""where.py [IMAGE]: where the time of a conversion goes, stage by stage, for docs/explanation/where-the-time-goes.md.

IMAGE is one of setup.sh's (scipy-latest). Each stage runs alone, in one thread, over all layers, so its figure is what
it costs a CPU; in a pull they overlap. Blobs come from the page cache.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hpcc.compressors import BLOCK_SIZE, make_compressor
from hpcc.convert import OpenPack, assemble, convert_layer
from hpcc.oci import layer, tar
from hpcc.oci.compression import decompress
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.origin import Origin
from hpcc.pack import read_pack
from tests.support import peers

CHUNK = 1 << 18
T = TypeVar("T")


def open_image(tag: str) -> tuple[list[bytes], ImageConfig]:
    images = peers.PEERS / "images"

    def blob(digest: str) -> bytes:
        return (images / "blobs" / digest.replace(":", "/")).read_bytes()

    for entry in json.loads((images / "index.json").read_text())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            manifest = json.loads(blob(entry["digest"]))
            config = ImageConfig.parse(blob(manifest["config"]["digest"]))
            return [blob(each["digest"]) for each in manifest["layers"]], config
    raise SystemExit(f"no image {tag} in {images}: run tests/support/peers/setup.sh images")


def chunks(blob: bytes) -> Iterator[bytes]:
    for at in range(0, len(blob), CHUNK):
        yield blob[at : at + CHUNK]


def timed(what: str, work: Callable[[], T], *less: float) -> tuple[float, T]:
    """Milliseconds of `work`, printed less those that are another stage's; and what it gives."""
    began = time.process_time()
    found = work()
    spent = (time.process_time() - began) * 1000
    show(what, spent - sum(less))
    return spent, found


def show(what: str, milliseconds: float) -> None:
    print(f"{what:<44}{milliseconds:>8.0f} ms")


def unpack(blobs: list[bytes]) -> int:
    return sum(len(piece) for blob in blobs for piece in decompress(chunks(blob)))


def hash_all(pieces: list[bytes]) -> None:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)


def parse(blobs: list[bytes]) -> int:
    members = 0
    for blob in blobs:
        reader = tar.TarReader(tar.ByteStream(decompress(chunks(blob))))
        for member in reader:
            layer.entry(member)
            members += 1
            for _ in reader.blocks(BLOCK_SIZE) if member.type == tar.REGULAR else ():
                pass
    return members


def main(argv: list[str]) -> int:
    blobs, config = open_image(argv[0] if argv else "scipy-latest")
    compressor = make_compressor()
    piece = bytes(os.urandom(CHUNK))
    sent = sum(map(len, blobs))
    timed(f"hash of {sent / 1e6:.0f} MB of blobs", lambda: hash_all(blobs))
    unpacking, plain = timed("gunzip", lambda: unpack(blobs))
    hashing, _ = timed(f"hash of {plain / 1e6:.0f} MB unpacked", lambda: hash_all([piece] * (plain // CHUNK)))
    parsing, members = timed("tar, names, cutting into blocks", lambda: parse(blobs), unpacking)
    compressing = [0.0]

    def compress(data: bytes) -> bytes:
        began = time.thread_time()
        packed = compressor.compress(data)
        compressing[0] += (time.thread_time() - began) * 1000
        return packed

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(1) as pool:
        files = [open(f"{place}/{number}", "w+b") for number, _ in enumerate(blobs)]
        using = compressor._replace(compress=compress)
        began = time.process_time()
        packs = []
        for blob, diff_id, file in zip(blobs, config.diff_ids, files, strict=True):
            packs.append(OpenPack(convert_layer(chunks(blob), diff_id, file, using, pool), file.fileno()))
            file.flush()
        rest = (time.process_time() - began) * 1000 - parsing - hashing - compressing[0]
        show(f"compress the blocks of {members:,} files", compressing[0])
        show("find duplicates, hand over, write packs", rest)
        sizes = [os.fstat(each.fd).st_size for each in packs]
        timed("read the packs' indexes", lambda: [_read(each, size) for each, size in zip(packs, sizes, strict=True)])
        origin = Origin("example.org/image", str(Digest.of(b"")), "linux/amd64", compressor.id)
        with open(f"{place}/sif", "w+b") as out:
            timed(
                "merge, copy live blocks, make tables",
                lambda: assemble(out.fileno(), packs, origin, config, compressor, pool),
            )
        for file in files:
            file.close()
    return 0


def _read(each: OpenPack, size: int) -> object:
    return read_pack(lambda offset, length: os.pread(each.fd, length, offset), size, each.pack.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
