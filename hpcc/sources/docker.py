"""Images in registries: what a reference means now, and the layers as streams. Joins registry and cache.

Only HEADs are free of Docker Hub's quota: a tag is asked for by HEAD, and a manifest is fetched by digest when no cache
has it, and then kept for ever.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hpcc.cache.blobs import MAX_SIZE, read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Ref, write_ref
from hpcc.errors import ImageNotFound, InvalidImage, UnsupportedImage
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import MAX_NESTING, Descriptor, Index, Manifest, parse_manifest
from hpcc.oci.platform import Platform, select
from hpcc.oci.reference import Reference, api_host
from hpcc.progress import Progress
from hpcc.records import NamedTuple
from hpcc.registry.client import Registry, fetch_blob
from hpcc.registry.credentials import find_credentials
from hpcc.settings import Settings
from hpcc.version import __version__

CHUNK = 1 << 20


class Found(NamedTuple):
    """A reference, looked up: the manifest for the platform, its config, and where its parts belong."""

    digest: Digest
    manifest: Manifest
    config: ImageConfig
    tier: Cache  # the private one for what only credentials could pull


def connect(reference: Reference, settings: Settings) -> Registry:
    """A client for the reference's registry, with the credentials that the user has for it."""
    host = reference.registry
    return Registry(
        api_host(host),
        http=settings.nohttps or host in settings.insecure,
        credentials=find_credentials(host, settings.environ, settings.environ.get("HOME", ""), reference.repository),
        user_agent=f"hpcc/{__version__}",
    )


def find_image(reference: Reference, platform: Platform, registry: Registry, shared: Cache, private: Cache) -> Found:
    """Ask the registry what the reference names, and have its manifest and config in the cache.

    Raises RegistryError, UnsupportedImage, InvalidImage, IntegrityError, CacheError.
    """
    resolved = registry.resolve(reference.repository, reference.tag_or_digest)
    tier = private if resolved.private else shared
    descriptor = resolved.descriptor
    digest = descriptor.digest
    for _ in range(MAX_NESTING):
        document = _document(reference, descriptor._replace(digest=digest), registry, tier, (shared, private))
        if isinstance(document, Manifest):
            config = _config(reference, document, registry, tier, (shared, private))
            if len(config.diff_ids) != len(document.layers):
                raise InvalidImage(
                    f"{reference}: the config names {len(config.diff_ids)} layers, the manifest {len(document.layers)}"
                )
            if reference.digest is None:
                top = resolved.descriptor
                name = f"{reference.name}:{reference.tag}"
                ref = Ref(name, str(top.digest), top.media_type, top.size, time.time())
                write_ref(tier, reference.name, str(reference.tag), ref)
            return Found(digest, document, config, tier)
        with _named(reference):
            descriptor = select(document.manifests, platform)
        digest = descriptor.digest
    raise InvalidImage(
        f"{reference}: an index in an index in an index", hint="The image is broken; ask whoever pushed it."
    )


def _document(
    reference: Reference, descriptor: Descriptor, registry: Registry, tier: Cache, caches: tuple[Cache, ...]
) -> Manifest | Index:
    """A manifest or index, from a cache or the registry; kept in the tier, unless it is no manifest at all."""
    digest = descriptor.digest
    kept = read_blob((tier,), digest)
    data = kept or read_blob(caches, digest) or registry.manifest(reference.repository, digest)

    def keep() -> None:
        if kept is None:
            tier.write(tier.blob(digest.algorithm, digest.hex), data)

    with _named(reference):
        try:
            document = parse_manifest(data, descriptor.media_type)
        except UnsupportedImage:
            keep()  # asking for it again would cost quota again
            raise
    keep()
    return document


def _config(
    reference: Reference, manifest: Manifest, registry: Registry, tier: Cache, caches: tuple[Cache, ...]
) -> ImageConfig:
    descriptor = manifest.config
    digest = descriptor.digest
    kept = read_blob((tier,), digest)
    data = kept or read_blob(caches, digest)
    if data is None:
        if descriptor.size > MAX_SIZE:
            raise InvalidImage(f"{reference}: a config of {descriptor.size} bytes")
        sink = _Bytes()
        fetch_blob(registry, reference.repository, descriptor, sink)
        data = bytes(sink.data)
    with _named(reference):
        config = ImageConfig.parse(data)
    if kept is None:
        tier.write(tier.blob(digest.algorithm, digest.hex), data)
    return config


@contextmanager
def _named(reference: Reference) -> Iterator[None]:
    """Have an error of a pure parser say whose document it was."""
    try:
        yield
    except (InvalidImage, UnsupportedImage) as error:
        raise type(error)(f"{reference}: {error.message}", hint=error.hint) from None


class _Bytes:
    """A sink in memory, for small blobs."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


class GrowingFile:
    """A blob on its way: one thread downloads into a file, another reads it while it grows.

    The reader sees bytes that are not verified yet; only when its iterator ends without an error were they what their
    digest says. A download that starts again makes the reader fail with `Restarted`.
    """

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._changed = threading.Condition()
        self._size = self._restarts = 0
        self._ended = self._cancelled = False
        self._error: BaseException | None = None

    # The downloading side: a sink of fetch_blob

    def write(self, data: bytes) -> None:
        if self._cancelled:
            raise InterruptedError("the pull was given up")
        self._file.write(data)
        self._file.flush()
        self._progress.advance(len(data))
        with self._changed:
            self._size += len(data)
            self._changed.notify_all()

    def restart(self) -> None:
        with self._changed:
            self._progress.advance(-self._size)
            self._file.seek(0)
            self._file.truncate()
            self._size = 0
            self._restarts += 1
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """All is there and verified, or the download failed. The first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Make the next write fail, so that the downloading thread ends, and wake the reader."""
        self._cancelled = True
        self.end(InterruptedError("the pull was given up"))

    # The reading side

    def chunks(self) -> Iterator[bytes]:
        """The bytes from the first one, as they come. Raises what the download raised, or Restarted.

        After Restarted, `chunks` may be called again. Waits as long as the download lasts, which ends by itself.
        """
        with self._changed:
            offset, restarts = 0, self._restarts
        while True:
            with self._changed:
                while self._size <= offset and not self._ended and self._restarts == restarts:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                if self._restarts != restarts:
                    raise Restarted
                available = self._size
                ended = self._ended
            while offset < available:
                data = os.pread(self._file.fileno(), min(CHUNK, available - offset), offset)
                if not data:
                    break  # truncated by a restart
                offset += len(data)
                yield data
            if ended:
                return


class Restarted(Exception):
    """The download began again from the start; so must whoever reads it."""


def cached_chunks(cache: Cache, descriptor: Descriptor) -> Iterator[bytes] | None:
    """A layer that the cache has, verified while it is read: IntegrityError at its end where it is damaged."""
    fd = cache.open(cache.blob(descriptor.digest.algorithm, descriptor.digest.hex))
    if fd is None:
        return None
    file = open(fd, "rb", buffering=0)  # closed with the iterator, also where nobody begins to read it
    if os.fstat(fd).st_size != descriptor.size:
        file.close()
        return None

    def chunks() -> Iterator[bytes]:
        verifier = Verifier(descriptor.digest, descriptor.size)
        with file:
            while data := file.read(CHUNK):
                verifier.update(data)
                yield data
        verifier.finish()

    return chunks()


def download(registry: Registry, reference: Reference, descriptor: Descriptor, target: GrowingFile) -> None:
    """Fetch a layer into `target`; errors go to whoever reads it."""
    try:
        fetch_blob(registry, reference.repository, descriptor, target)
    except ImageNotFound as error:
        target.end(
            ImageNotFound(
                f"{reference}: layer {descriptor.digest} is missing in the registry",
                hint=error.hint or "The image was pushed incompletely, or was deleted meanwhile.",
            )
        )
    except BaseException as error:
        target.end(error)
    else:
        target.end()
