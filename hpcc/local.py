"""An image on this host, a SIF, a squashfs file or a directory: opened, checked, and what it says about running it."""

from __future__ import annotations

import errno
import os
import stat

from hpcc.errors import ImageNotFound, InvalidImage
from hpcc.origin import MARK
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.rootfs import Rootfs
from hpcc.sif import descriptor
from hpcc.sif.load import AGAIN, Sif, load

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any


MAX_JSON = 8 << 20
LAUNCHER = b"#!/usr/bin/env run-singularity\n"
"""How each image begins that runs by itself: a SIF, or a squashfs of Singularity 2.4 and 2.5 right behind it."""


class Image:
    """An opened image. `name` is what the user called it, `path` the SIF, squashfs or directory that it runs from."""

    __slots__ = ("cache", "config", "key", "name", "path", "reference", "rootfs", "sif")

    def __init__(
        self,
        name: str,
        path: str,
        rootfs: Rootfs,
        config: RunConfig,
        sif: Sif | None = None,
        reference: str = "",
        key: str = "",
        cache: str = "",
    ) -> None:
        self.name, self.path, self.rootfs, self.config, self.sif = name, path, rootfs, config, sif
        self.reference = reference  # registry/repository@digest, of an image that hpcc made
        self.key, self.cache = key, cache  # under which it stands in which cache; "" for what is in none

    def __repr__(self) -> str:
        return f"<hpcc.Image {self.reference or self.name}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        from hpcc.tables import size, table

        rows = [("image", self.name)]
        if self.reference:
            rows.append(("digest", self.reference.rpartition("@")[2]))
        rows.append(("file", self.path))
        if self.rootfs.size:
            rows.append(("size", size(self.rootfs.size)))
        for name, words in (("entrypoint", self.config.entrypoint), ("command", self.config.cmd)):
            if words:
                rows.append((name, " ".join(words)))
        return table((), rows)

    def run(self, args: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[Any]:
        """`hpcc run`: the image's ENTRYPOINT with `args`, or its CMD. See `execute` for the options."""
        return self._call("run", args, options)

    def exec(self, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """`hpcc exec`: the command `args` in the image.

        Options are those of the command line with underscores (compat=True, bind=["/data"], env={"A": "1"}, …);
        the others are subprocess.run's (capture_output, text, check, cwd, timeout, input, …).
        """
        return self._call("exec", args, options)

    def _call(self, command: str, args: Sequence[str], options: dict[str, Any]) -> subprocess.CompletedProcess[Any]:
        from hpcc.invoke import run_image

        return run_image(command, self.path, args, options)


def open_local(path: str, *, name: str | None = None, fd: int | None = None, cache: str = "") -> Image:
    """The image in a file or directory. Raises ImageNotFound, InvalidImage.

    `fd`: it, opened already; `cache`: the directory of the cache that it was found in, and that vouches for it.
    """
    name = name or os.path.abspath(path)
    if fd is None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _missing(path, error) from None
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        os.close(fd)
        return _open_directory(os.path.abspath(path), name)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidImage(f"{path} is neither a file nor a directory")
    identity = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    head = os.pread(fd, 64, 0)
    at = len(LAUNCHER) if head.startswith(LAUNCHER) else 0
    if head[at : at + 4] == b"hsqs":
        compressor = int.from_bytes(head[at + 20 : at + 22], "little")
        rootfs = Rootfs("squashfs", os.path.abspath(path), fd, at, status.st_size - at, identity, compressor=compressor)
        return Image(name, rootfs.path, rootfs, RunConfig(scripts=True, runscript="/.singularity.d/runscript"))
    if not head:
        raise InvalidImage(f"{path} is empty: somebody's pull was broken off", hint=AGAIN)
    if head[32:41] != b"SIF_MAGIC":
        raise InvalidImage(
            f"{path} is no image that hpcc can run",
            hint="It runs SIF and squashfs files, directories, and docker:// URIs.",
        )
    return _open_sif(path, name, fd, status.st_size, identity, cache)


def _missing(path: str, error: OSError) -> ImageNotFound:
    if error.errno == errno.ENOENT and os.path.islink(path):
        hint = (
            "Somebody has cleaned the cache, or it was purged. Pull the image again; Snakemake and Nextflow do so by "
            "themselves when they are started anew."
        )
        return ImageNotFound(f"{path} is a link to {os.path.realpath(path)}, which is gone", hint=hint)
    hint = "Images in a registry are written docker://NAME." if error.errno == errno.ENOENT else ""
    return ImageNotFound(f"{path}: {error.strerror}", hint=hint)


def _open_directory(path: str, name: str) -> Image:
    if os.path.isfile(os.path.join(path, "oci-layout")) and os.path.isfile(os.path.join(path, "index.json")):
        raise InvalidImage(
            f"{path} is an OCI image layout, which does not run as it is",
            hint="`hpcc pull docker://NAME` without --format oci makes a file that runs.",
        )
    scripts = os.path.isdir(os.path.join(path, ".singularity.d/env"))
    runscript = "/.singularity.d/runscript" if os.path.exists(os.path.join(path, ".singularity.d/runscript")) else ""
    return Image(name, path, Rootfs("directory", path), RunConfig(scripts=scripts, runscript=runscript))


def _open_sif(path: str, name: str, fd: int, size: int, identity: str, cache: str) -> Image:
    def read_at(offset: int, length: int) -> bytes:
        return os.pread(fd, length, offset)

    try:
        sif = load(read_at, size)
        primary = sif.primary()
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error.message}", hint=error.hint) from None
    partition = primary.partition
    if partition is None or partition.fs != descriptor.FS_SQUASHFS:
        raise InvalidImage(
            f"{path}: its root filesystem is not squashfs",
            hint="ext3 and encrypted SIFs cannot be run yet; rebuild it.",
        )
    mark = read_json(sif, fd, MARK)
    owners: tuple[int, ...] | None = None
    reference = ""
    if mark:
        if cache:  # else the key is anybody's words, and the identity becomes names of files
            identity = str(mark.get("key"))
        listed = mark.get("owners")
        owners = tuple(listed) if isinstance(listed, list) and all(isinstance(each, int) for each in listed) else None
        reference = str(mark.get("reference", ""))
    compressor = int.from_bytes(os.pread(fd, 2, primary.offset + 20), "little")  # superblock.py
    rootfs = Rootfs(
        "squashfs", os.path.abspath(path), fd, primary.offset, primary.size, identity, owners, bool(cache and mark),
        compressor,
    )  # fmt: skip
    config = _run_config(read_json(sif, fd, "oci-config.json")) if mark else None
    if config is None:
        config = RunConfig(scripts=True, runscript="/.singularity.d/runscript")
    return Image(
        name, rootfs.path, rootfs, config, sif, reference, str(mark.get("key", "")) if mark and cache else "", cache
    )


def _run_config(oci: dict[str, Any] | None) -> RunConfig | None:
    if oci is None:
        return None

    def texts(key: str) -> tuple[str, ...]:
        value = oci.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidImage(f"oci-config.json: {key} is no list of strings")
        try:
            passable = not any(b"\0" in os.fsencode(item) for item in value)
        except UnicodeEncodeError:
            passable = False
        if not passable:
            raise InvalidImage(f"oci-config.json: {key} has a string that no program can be given")
        return tuple(value)

    directory, user = (value if isinstance(value := oci.get(key), str) else "" for key in ("WorkingDir", "User"))
    return RunConfig(texts("Env"), texts("Entrypoint"), texts("Cmd"), directory=directory, user=user)


def read_json(sif: Sif, fd: int, name: str) -> dict[str, Any] | None:
    """A JSON object of the SIF as a dict; None where there is none that parses."""
    found = sif.find(descriptor.GENERIC_JSON, name)
    if found is None or found.size > MAX_JSON:
        return None
    from hpcc.quickjson import loads

    try:
        value = loads(os.pread(fd, found.size, found.offset))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
