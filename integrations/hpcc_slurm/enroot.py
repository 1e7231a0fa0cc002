"""What enroot calls an image: a squashfs file whose /etc says how to start it (its doc/image-format.md).

    /etc/rc            the command script: working directory, /etc/rc.local, ENTRYPOINT and CMD
    /etc/rc.local      read by it; pyxis writes its own there, so that a task does not pass through the ENTRYPOINT
    /etc/environment   NAME=VALUE lines, the image's ENV
    /etc/fstab         mounts; none

Names of images, as enroot and pyxis take them:

    docker://[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST]
"""

from __future__ import annotations

import os
from shlex import quote
from typing import NamedTuple

from hpcc.compressors import make_compressor
from hpcc.convert import copy_range
from hpcc.errors import InvalidReference, Unknown, UnsupportedImage
from hpcc.fstree import BLOCK, CHAR, DIRECTORY, REGULAR, Node
from hpcc.local import Image
from hpcc.runtime.environment import RunConfig
from hpcc.squashfs.amend import amend, read_tree
from hpcc.squashfs.compression import GZIP, LZ4, XZ, ZSTD
from hpcc.squashfs.reader import open_squashfs

_COMPRESSIONS = {GZIP: "gzip", ZSTD: "zstd", LZ4: "lz4", XZ: "xz"}


class Uri(NamedTuple):
    """The image as hpcc names it, and the user that the URI names for its registry, "" for none."""

    image: str
    user: str


def parse_uri(text: str) -> Uri:
    """A URI of enroot's or pyxis'. InvalidReference for one that names nothing, Unknown for another scheme.

    Where there is no #, the registry may be written as everybody else writes it: nvcr.io/nvidia/cuda.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        rest = text
    elif scheme != "docker":
        raise Unknown(
            f"{text}: hpcc does not import from {scheme}://", hint="It takes docker://[USER@][REGISTRY#]IMAGE[:TAG]."
        )
    left, hash_sign, image = rest.partition("#")
    if hash_sign:
        user, _, registry = left.rpartition("@")
        if not registry or not image:
            raise InvalidReference(f"{text!r} names no registry or no image", hint="docker://REGISTRY#IMAGE[:TAG]")
        return Uri(f"docker://{registry}/{image}", user)
    name, at, digest = rest.rpartition("@")
    if not (at and digest.startswith(("sha256:", "sha512:"))):
        return Uri(f"docker://{digest}", name)
    user, _, name = name.rpartition("@")
    return Uri(f"docker://{name}@{digest}", user)


def enroot_files(config: RunConfig) -> dict[bytes, tuple[str, int]]:
    """Name in /etc -> (content, mode). Of ENV, what no line can hold is left out."""
    directory = quote(config.directory or "/")
    entrypoint = "".join(f" {quote(word)}" for word in config.entrypoint)
    command = "".join(f" {quote(word)}" for word in config.cmd)
    if not (entrypoint or command):
        command = " /bin/sh"
    script = (
        f"mkdir -p {directory} 2>/dev/null\n"
        f"cd {directory} && unset OLDPWD || exit 1\n"
        "[ ! -s /etc/rc.local ] || . /etc/rc.local\n"
        f'[ $# -eq 0 ] || exec{entrypoint} "$@"\n'
        f"exec{entrypoint}{command}\n"
    )
    lines = [item for item in config.env if "\n" not in item and item.partition("=")[0] and "=" in item]
    return {
        b"rc": (script, 0o755),
        b"rc.local": ("# /etc/rc reads this when the container starts.\n", 0o644),
        b"environment": ("".join(f"{line}\n" for line in lines), 0o644),
        b"fstab": ("", 0o644),
    }


def write_enroot_image(image: Image, path: str) -> None:
    """Make the file `path`, an image of enroot's, of an image of hpcc's; its data are copied as they are.

    Device files, which only root could unpack, stay out. UnsupportedImage where its /etc is no directory.
    """
    source = image.rootfs
    squashfs = open_squashfs(lambda offset, size: os.pread(source.fd, size, source.offset + offset), source.size)
    root = read_tree(squashfs)
    for _, node in list(root.walk()):
        for name in [name for name, child in (node.children or {}).items() if child.kind in (BLOCK, CHAR)]:
            del (node.children or {})[name]
    mtime = squashfs.superblock.mtime
    etc = _directory(root, b"etc", mtime)
    if etc is None or etc.children is None:
        raise UnsupportedImage(f"{image.name}: /etc is no directory, and enroot keeps its files there")
    for name, (text, mode) in enroot_files(image.config).items():
        data = text.encode("utf-8", "surrogateescape")
        etc.children[name] = Node(REGULAR, mode, mtime=mtime, data=data)
    _add_path(root, image.config.directory, mtime)
    compressor = make_compressor(_COMPRESSIONS[squashfs.superblock.compressor])
    amended = amend(squashfs, root, compressor.compress)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy_range(source.fd, fd, source.offset, 0, amended.data_end)
        _write(fd, amended.tail, amended.data_end)
        _write(fd, amended.head, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _directory(node: Node, name: bytes, mtime: int) -> Node | None:
    """The directory of this name in another one, made where nothing is; None where something else is."""
    children = node.children
    if children is None:
        return None
    found = children.setdefault(name, Node(DIRECTORY, 0o755, mtime=mtime))
    return found if found.kind == DIRECTORY else None


def _add_path(root: Node, path: str, mtime: int) -> None:
    """Make the directories of a path, up to a link or file on the way: then the image has it, or cannot."""
    node: Node | None = root
    for name in os.fsencode(path).split(b"/"):
        if name == b"..":
            return
        if name not in (b"", b".") and node is not None:
            node = _directory(node, name, mtime)


def _write(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, at)
        left, at = left[done:], at + done
