"""A SIF as an OCI image of one layer, for programs that know no SIFs: Docker, podman, Kubernetes.

    squashfs  ──walk──>  tar, in byte order of the names  ──gzip──>  layer
    oci-config.json  ───────────────────────────────────────────>  config

Nothing is unpacked, and no clock is asked: the same SIF and the same compressor give the same digest. Of an image that
hpcc made from a registry, ENTRYPOINT, CMD and environment are the image's own; of others the container runs the
runscript by its shell, in the environment of the image's scripts.
"""

import hashlib
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from hpcc.compressors import HEAD, ISAL_LEVEL, ZLIB_LEVEL
from hpcc.errors import UnsupportedImage
from hpcc.fstree import BLOCK, CHAR, DIRECTORY, FIFO, REGULAR, SYMLINK
from hpcc.local import Image, read_json
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_LAYER_GZIP, OCI_MANIFEST
from hpcc.origin import MARK
from hpcc.progress import Part
from hpcc.records import NamedTuple
from hpcc.squashfs.inode import Inode
from hpcc.squashfs.reader import SquashFS, open_squashfs

CONFIG = "application/vnd.oci.image.config.v1+json"
_OWN = ".image.d"
"""Where the scripts of an image of others stand too: whoever pulls it writes new ones to /.singularity.d."""

_RUN = f'for file in /{_OWN}/env/*.sh; do [ ! -f "$file" ] || . "$file"; done; exec /{_OWN}/runscript "$@"'
_FIELDS = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")
_TYPES = {
    DIRECTORY: tarfile.DIRTYPE, REGULAR: tarfile.REGTYPE, SYMLINK: tarfile.SYMTYPE, BLOCK: tarfile.BLKTYPE,
    CHAR: tarfile.CHRTYPE, FIFO: tarfile.FIFOTYPE,
}  # fmt: skip


class Flat(NamedTuple):
    """What is to be pushed beside the layer, which lies in the file that was given, and its digest and size."""

    manifest: bytes
    config: bytes
    layer: Digest
    size: int


def flatten(image: Image, target: BinaryIO, part: Part) -> Flat:
    """Write the layer to `target`. UnsupportedImage for what is no SIF with a squashfs; InvalidImage; OSError."""
    if image.sif is None or image.rootfs.kind != "squashfs":
        raise UnsupportedImage(
            f"{image.name} is no SIF with a squashfs, of which hpcc makes an OCI image",
            hint="An encrypted SIF, or one with an ext3 image, has to be built anew.",
        )
    rootfs = image.rootfs
    squashfs = open_squashfs(lambda at, size: os.pread(rootfs.fd, size, rootfs.offset + at), rootfs.size)
    out = _Gzip(target)
    with tarfile.open(
        fileobj=out,
        mode="w|",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",  # type: ignore[call-overload]
    ) as tar:
        for info, data in _members(squashfs, copy=not _is_ours(image)):
            tar.addfile(info, data)
            part.advance(info.size)
    out.finish()
    layer = Digest("sha256", out.compressed.hexdigest())
    config = _config(image, f"sha256:{out.plain.hexdigest()}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": str(layer), "size": out.size}],
    }
    return Flat(_json(document), config, layer, out.size)


def _is_ours(image: Image) -> bool:
    """Whether hpcc made it from a registry, so that its OCI config tells exactly how it runs."""
    return image.sif is not None and read_json(image.sif, image.rootfs.fd, MARK) is not None


def _members(squashfs: SquashFS, *, copy: bool) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """copy: with the scripts of /.singularity.d at the place of _OWN too."""
    for directory in ("", "/env") if copy else ():
        info = tarfile.TarInfo(f"{_OWN}{directory}")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        yield info, None
    for path, inode in squashfs.walk() if copy else ():
        name = path.decode("utf-8", "surrogateescape")
        rest = name.removeprefix(".singularity.d/")
        if inode.kind == REGULAR and rest != name and (rest == "runscript" or rest.startswith("env/")):
            info = tarfile.TarInfo(f"{_OWN}/{rest}")
            info.mode, info.size, info.mtime = 0o755, inode.size, inode.mtime
            yield info, _Content(squashfs, inode)
    seen: dict[int, str] = {}
    for path, inode in squashfs.walk():
        name = path.strip(b"/").decode("utf-8", "surrogateescape")
        if not name or inode.kind not in _TYPES:  # sockets are nothing that a tar can hold
            continue
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid = stat.S_IMODE(inode.mode), inode.uid, inode.gid
        info.mtime, info.type = inode.mtime, _TYPES[inode.kind]
        if inode.kind != DIRECTORY and inode.nlink > 1:
            if inode.number in seen:
                info.type, info.linkname = tarfile.LNKTYPE, seen[inode.number]
                yield info, None
                continue
            seen[inode.number] = name
        info.pax_headers = {
            f"SCHILY.xattr.{key.decode('utf-8', 'surrogateescape')}": value.decode("utf-8", "surrogateescape")
            for key, value in inode.xattrs
        }
        if inode.kind == SYMLINK:
            info.linkname = inode.target.decode("utf-8", "surrogateescape")
        elif inode.kind in (BLOCK, CHAR):
            info.devmajor, info.devminor = inode.rdev
        if inode.kind == REGULAR:
            info.size = inode.size
            yield info, _Content(squashfs, inode)
        else:
            yield info, None


class _Content:
    """A file's bytes, for tarfile."""

    def __init__(self, squashfs: SquashFS, inode: Inode) -> None:
        self._pieces, self._left = squashfs.read(inode), b""

    def read(self, size: int) -> bytes:
        while len(self._left) < size and (piece := next(self._pieces, b"")):
            self._left += piece
        data, self._left = self._left[:size], self._left[size:]
        return data


class _Gzip:
    """Compresses what is written to it into a file, and hashes both: by isal where that has a wheel, else by zlib."""

    def __init__(self, target: BinaryIO) -> None:
        self._target, self.size = target, 0
        self.plain, self.compressed = hashlib.sha256(), hashlib.sha256()
        try:
            from isal import isal_zlib

            self._stream: Any = isal_zlib.compressobj(ISAL_LEVEL, isal_zlib.DEFLATED, 31)
            self._flush_first = isal_zlib.Z_SYNC_FLUSH  # as in compressors.py, for the same reason
        except ImportError:
            self._stream = zlib.compressobj(ZLIB_LEVEL, zlib.DEFLATED, 31)
            self._flush_first = 0

    def write(self, data: bytes) -> None:
        self.plain.update(data)
        if self._flush_first:
            self._put(self._stream.compress(data[:HEAD]) + self._stream.flush(self._flush_first))
            self._flush_first, data = 0, data[HEAD:]
        self._put(self._stream.compress(data))

    def finish(self) -> None:
        self._put(self._stream.flush())

    def _put(self, data: bytes) -> None:
        self.compressed.update(data)
        self.size += len(data)
        self._target.write(data)


def _config(image: Image, diff_id: str) -> bytes:
    assert image.sif is not None
    kept = read_json(image.sif, image.rootfs.fd, "oci-config.json") or {}
    config = {name: kept[name] for name in _FIELDS if kept.get(name)}
    if not _is_ours(image):  # its definition file may have said another thing since
        config = {name: value for name, value in config.items() if name in ("Env", "Labels")}
        config["Entrypoint"] = ["/bin/sh", "-c", _RUN, "run"]
    document = {
        "architecture": image.sif.header.arch,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    return _json(document)


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
