"""An OCI archive into a cache: read once, from front to back, and each blob verified while it passes.

FILE, a tar (image specification, image-layout.md)
  oci-layout
  index.json                what is in it, by name
  blobs/sha256/<hex>        manifests, configs, layers
  manifest.json, repositories     of `docker save`, which writes them beside: not read

The archive is a stranger's. What is not one of these is refused: other paths, links, devices, a path that comes twice.
Nothing of it becomes a path here but hexadecimal digits, and memory is bounded whatever its headers claim.
"""

import os
from collections.abc import Iterator
from io import FileIO

from hpcc.cache.intake import CHUNK, Contained, contained, name_of, note_image, put_blob
from hpcc.cache.layout import Cache
from hpcc.errors import HpccError, IntegrityError, InvalidImage, InvalidReference, UsageError
from hpcc.lookup import tiers
from hpcc.oci import tar
from hpcc.oci.digest import Digest
from hpcc.oci.document import MAX_DOCUMENT, load_object
from hpcc.oci.manifest import OCI_INDEX, Descriptor, Index, parse_manifest
from hpcc.oci.reference import Reference
from hpcc.progress import SILENT, Part, Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc.sources.docker import readable_tiers

MAX_MEMBERS = 100_000
_IGNORED = ("manifest.json", "repositories")
_HINT = "It should be an OCI archive. `skopeo copy docker-archive:FILE oci-archive:NEW` makes one of what docker saved."


class Import(NamedTuple):
    """What came of an archive. Each image by its name; unnamed: what index.json gives no name for."""

    images: tuple[tuple[Reference, Descriptor], ...]
    unnamed: tuple[Descriptor, ...]
    new_blobs: int
    new_bytes: int
    tier: Cache


def import_archive(
    path: str, settings: Settings, progress: Progress = SILENT, *, private: bool = False, base: str = ""
) -> Import:
    """Put what an archive has into the shared tier, or the private one. Idempotent. See cache.intake on its tags.

    base: the name for tags that stand alone. Raises InvalidImage for what is no archive, or has an image that is not
    whole (its blobs stay, and all other images are there); IntegrityError; CacheError. An image may leave out blobs
    that the cache has. Blobs that no image of it needs are left to garbage collection: by now somebody may use them.
    """
    caches = tiers(settings)
    tier = caches[-1] if private else caches[-2]
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            progress.stage("Importing", size)
            archive = _Archive(tier, _Counted(file, progress.part(os.path.basename(path), size)))
            try:
                archive.read()
                return _settle(archive, readable_tiers(tier, caches), settings, base, tier)
            except InvalidImage as error:
                raise InvalidImage(f"{path}: {error.message}", hint=error.hint or _HINT) from None
            except IntegrityError as error:
                hint = error.hint or "The archive is damaged, or was tampered with: copy it again."
                raise IntegrityError(f"{path}: {error.message}", hint=hint) from None
    except OSError as error:
        if isinstance(error, HpccError) or error.errno is None:
            raise
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=_hint_for(path)) from None
    finally:
        progress.close()


def _hint_for(path: str) -> str:
    if os.path.isdir(path):
        return f"Name an archive. Of an OCI layout this makes one: tar -C {path} -cf FILE.tar ."
    return "Name an OCI archive."


def _settle(archive: "_Archive", readable: tuple[Cache, ...], settings: Settings, base: str, tier: Cache) -> Import:
    named = [(entry, name_of(entry, base)) for entry in archive.index().manifests]  # nothing is kept of a liar
    images: list[tuple[Reference, Descriptor]] = []
    unnamed: list[Descriptor] = []
    broken: list[str] = []
    for entry, reference in named:
        found = contained(readable, entry)
        if not found.images:
            broken.append(_lacks(reference.canonical if reference else str(entry.digest), found))
        elif reference is None:
            unnamed.append(entry)
        else:
            note_image(tier, reference, entry, found, settings.ttl)
            images.append((reference, entry))
    if broken:
        raise InvalidImage("; ".join(broken[:5]), hint="Export it again, whole.")
    if not images and not unnamed:
        raise InvalidImage("its index.json names no image", hint=_HINT)
    return Import(tuple(images), tuple(unnamed), len(archive.new), sum(archive.new.values()), tier)


def _lacks(name: str, found: Contained) -> str:
    if not found.missing:
        return f"{name} is no image"
    first, more = found.missing[0], len(found.missing) - 1
    return f"{name} is not whole: {first}{f' and {more} more blobs are' if more else ' is'} neither in it nor here"


class _Counted:
    """The archive's bytes as chunks, counted."""

    def __init__(self, file: FileIO, part: Part) -> None:
        self._file, self._part = file, part
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while data := self._read():
            self.taken += len(data)
            self._part.advance(len(data))
            yield data
        self._part.finish()

    def _read(self) -> bytes:
        try:
            return self._file.read(CHUNK)
        except OSError as error:  # said here, since below it would look like a failure of the cache
            raise UsageError(f"the archive cannot be read: {error.strerror}", hint="Copy it again.") from None


class _Archive:
    """First `read`, then `index`. new: the blobs that were not here before, with their sizes."""

    def __init__(self, tier: Cache, source: _Counted) -> None:
        self._tier, self._source = tier, source
        self._documents: dict[str, bytes] = {}
        self._given = 0  # bytes of all members
        self.new: dict[Digest, int] = {}

    def read(self) -> None:
        """Publish each blob; refuse what does not belong here."""
        chunks = iter(self._source)
        head = next(chunks, b"")
        if head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd":
            raise InvalidImage("it is compressed", hint="Decompress it first (gunzip, zstd -d); its layers are anyway.")
        reader = tar.TarReader(tar.ByteStream(_chain(head, chunks)))
        seen: set[str] = set()
        for member in reader:
            path = _path(member)
            if member.type == tar.DIRECTORY:
                continue
            if path in seen:
                raise InvalidImage(f"{path} comes twice", hint=_HINT)
            if len(seen) == MAX_MEMBERS:
                raise InvalidImage(f"more than {MAX_MEMBERS} members", hint=_HINT)
            seen.add(path)
            if path in ("oci-layout", "index.json"):
                if member.size > MAX_DOCUMENT:
                    raise InvalidImage(f"{path}: {member.size} bytes, more than {MAX_DOCUMENT}")
                self._documents[path] = b"".join(self._data(reader))
            elif path not in _IGNORED:
                algorithm, _, value = path.removeprefix("blobs/").partition("/")
                digest = Digest(algorithm, value)
                if put_blob(self._tier, digest, member.size, self._data(reader)):
                    self.new[digest] = member.size
        for _ in chunks:  # what writes into a pipe is not broken off
            pass

    def _data(self, reader: tar.TarReader) -> Iterator[bytes]:
        """A member's bytes. Sparse files claim more than they have, terabytes of zeros if they like."""
        for data in reader.blocks(CHUNK):
            self._given += len(data)
            if self._given > self._source.taken:
                raise InvalidImage("it has sparse files that are larger than itself", hint=_HINT)
            yield data

    def index(self) -> Index:
        """What index.json says; InvalidImage where it, or oci-layout, is not there or not of a version known here."""
        for name in ("oci-layout", "index.json"):
            if name not in self._documents:
                raise InvalidImage(f"it has no {name}", hint=_HINT)
        version = load_object(self._documents["oci-layout"], "oci-layout").get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidImage(f"an OCI layout of version {str(version)[:20]!r}, not 1.0.0", hint=_HINT)
        index = parse_manifest(self._documents["index.json"], OCI_INDEX)
        if not isinstance(index, Index):
            raise InvalidImage("its index.json is no index", hint=_HINT)
        return index


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _path(member: tar.Member) -> str:
    """Where a member of an archive stands, in one spelling; InvalidImage for all but files that belong there."""
    raw = member.name.decode("utf-8", "backslashreplace")
    path = raw.removeprefix("./").rstrip("/")
    if member.type == tar.DIRECTORY and path in ("", ".", "blobs", "blobs/sha256", "blobs/sha512"):
        return path
    if member.type == tar.REGULAR:
        if path in ("oci-layout", "index.json", *_IGNORED) and not raw.endswith("/"):
            return path
        top, _, rest = path.partition("/")
        try:
            Digest.parse(rest.replace("/", ":", 1))
        except InvalidReference:
            pass
        else:
            if top == "blobs" and rest.count("/") == 1 and ":" not in rest:
                return path
    kind = "" if member.type == tar.REGULAR else ", a link or device or directory"
    raise InvalidImage(f"it has {raw[:200]!r}{kind}, which is no part of an OCI layout", hint=_HINT)
