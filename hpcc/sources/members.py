"""A tar archive that is read where it lies: where each of its files stands, and that file's bytes.

The archive is a stranger's. Its paths are names in a table and nothing else: none becomes a path on this host, and its
links are followed within the table. What is compressed is first unpacked into a file without a name, since a layer may
be wanted before the manifest that stands behind it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from hpcc.errors import HpccError, ImageNotFound, InvalidImage, PolicyError, UsageError
from hpcc.oci import tar
from hpcc.oci.compression import decompress
from hpcc.oci.document import MAX_DOCUMENT
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from hpcc.cache.layout import Cache
    from hpcc.progress import Progress

CHUNK = 1 << 20
MAX_MEMBERS = 100_000
MAX_LINKS = 8  # one behind the other
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class _Place(NamedTuple):
    offset: int
    size: int


class Archive:
    """The files of an archive by their paths. Safe to read from several threads; whoever opened the file closes it."""

    def __init__(self, fd: int) -> None:
        """InvalidImage for what is no tar archive, is cut short, or has paths that leave it or come twice."""
        self._fd = fd
        self._files: dict[str, _Place] = {}
        self._links: dict[str, str] = {}
        if os.pread(fd, 5, 257) not in (b"ustar", b""):
            raise InvalidImage("it is no tar archive, nor one that gzip or zstd has compressed")
        stream = _InPlace(fd)
        reader = tar.TarReader(stream)
        for number, member in enumerate(reader):
            if number == MAX_MEMBERS:
                raise InvalidImage(f"more than {MAX_MEMBERS} members")
            path = _path(member.name)
            if member.type == tar.DIRECTORY:
                continue
            if path in self._files or path in self._links:
                raise InvalidImage(f"{path[:200]!r} comes twice")
            if member.type == tar.SYMLINK:
                self._links[path] = _join(os.path.dirname(path), member.target)
            elif member.type == tar.HARDLINK:
                self._links[path] = _path(member.target)
            elif member.type == tar.REGULAR and not reader.is_sparse:
                self._files[path] = _Place(stream.at, member.size)
            else:
                raise InvalidImage(f"{path[:200]!r} is a device or has holes, which no image archive needs")

    def __contains__(self, path: str) -> bool:
        return self._find(path) is not None

    def size(self, path: str) -> int:
        """Bytes of a file. InvalidImage where there is none."""
        return self._place(path).size

    def document(self, path: str) -> bytes:
        """A small file whole. InvalidImage where it is missing, or too large."""
        place = self._place(path)
        if place.size > MAX_DOCUMENT:
            raise InvalidImage(f"{path[:200]}: {place.size} bytes, more than the {MAX_DOCUMENT} that one may have")
        return b"".join(self.chunks(path))

    def chunks(self, path: str) -> Iterator[bytes]:
        """A file's bytes. InvalidImage where the archive has changed meanwhile."""
        place = self._place(path)
        done = 0
        while done < place.size:
            data = os.pread(self._fd, min(CHUNK, place.size - done), place.offset + done)
            if not data:
                raise InvalidImage("the archive ends in the middle of a file")
            done += len(data)
            yield data

    def _place(self, path: str) -> _Place:
        found = self._find(path)
        if found is None:
            raise InvalidImage(f"it names {path[:200]!r}, and has no such file")
        return found

    def _find(self, path: str) -> _Place | None:
        for _ in range(MAX_LINKS):
            if path in self._files:
                return self._files[path]
            if path not in self._links:
                return None
            path = self._links[path]
        raise InvalidImage(f"{path[:200]!r} is a link that leads round and round")


@contextmanager
def opened_archive(path: str, tier: Cache, most: int, progress: Progress, name: str = "") -> Iterator[Archive]:
    """The archive in a file. Errors name it, or `name`. tier: where a compressed one is unpacked, to `most` bytes (0:
    any).
    """
    name = name or path
    with opened(path) as file, named(name, "tar archive"):
        head = os.pread(file.fileno(), 4, 0)
        if not head.startswith(_COMPRESSED):
            yield Archive(file.fileno())
            return
        progress.info(f"{name} is compressed; it is unpacked first")
        with spooled(decompress(iter(lambda: file.read(CHUNK), b"")), tier, most) as plain:
            yield Archive(plain.fileno())


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A regular file, to be read; ImageNotFound, UsageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO does not hold us up
    except OSError as error:
        kind = ImageNotFound if error.errno in (errno.ENOENT, errno.ENOTDIR) else UsageError
        raise kind(
            f"{path}: {error.strerror}", hint="Is the path right? It counts from the working directory."
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        hint = f"Of an OCI layout it is oci:{path}." if os.path.isdir(path) else "Name the archive itself."
        raise UsageError(f"{path} is no file", hint=hint)
    with open(fd, "rb", buffering=0) as file:
        yield file


@contextmanager
def named(path: str, kind: str) -> Iterator[None]:
    """Have an error of a parser say whose words those were, and one of the disk what could not be read."""
    try:
        yield
    except InvalidImage as error:
        if error.message.startswith(path):
            raise
        hint = error.hint or f"Is it a whole {kind}? Copy it again, or have it made again."
        raise type(error)(f"{path}: {error.message}", hint=hint) from None
    except OSError as error:
        if isinstance(error, HpccError) or error.errno not in (errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM):
            raise
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Copy it to another place.") from None


@contextmanager
def spooled(
    chunks: Iterable[bytes], tier: Cache, most: int, tell: Callable[[int], None] | None = None
) -> Iterator[BinaryIO]:
    """All bytes of a stream in a temporary of the cache, whatever memory there is; gone at the end of the block."""
    size = 0
    with tier.temporary() as file:
        os.unlink(file.name)  # nobody goes on from it
        for data in chunks:
            size += len(data)
            if 0 < most < size:
                raise PolicyError(
                    f"the archive unpacks to more than {most / 1e9:g} GB, the most that is allowed here",
                    hint="Where it is to be trusted, raise the setting: HPCC_MAX_LAYER=500GB.",
                )
            file.write(data)
            if tell is not None:
                tell(len(data))
        file.flush()
        yield file


def looks_like_archive(fd: int) -> bool:
    """Whether a file is a tar, or compressed as one may be; no SIF and no squashfs is."""
    return os.pread(fd, 4, 0).startswith(_COMPRESSED) or os.pread(fd, 5, 257) == b"ustar"


class _InPlace(tar.ByteStream):
    """The bytes of a file; what is skipped is not read."""

    def __init__(self, fd: int) -> None:
        super().__init__(())
        self._fd, self._size = fd, os.fstat(fd).st_size

    def read(self, size: int) -> bytes:
        parts = []
        while size and (data := os.pread(self._fd, min(size, CHUNK), self.at)):
            parts.append(data)
            self.at += len(data)
            size -= len(data)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        there = max(0, min(size, self._size - self.at))
        self.at += there
        return there


def _path(raw: bytes) -> str:
    """A path within the archive, in one spelling."""
    return _join("", raw)


def _join(directory: str, raw: bytes) -> str:
    """Where a path leads from a directory of the archive; `..` is for links alone."""
    text = raw.decode("utf-8", "backslashreplace")
    parts = directory.split("/") if directory else []
    if text.startswith("/"):
        raise InvalidImage(f"it has the absolute path {text[:200]!r}", hint=_LEAVES)
    for part in text.split("/"):
        if part == "..":
            if not directory or not parts:
                raise InvalidImage(f"it has {text[:200]!r}, a path that leaves it", hint=_LEAVES)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_LEAVES = "No program that saves images writes that. Ask whoever made the archive."
