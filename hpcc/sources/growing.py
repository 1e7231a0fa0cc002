"""A layer on its way, read while it comes; and one that a cache has."""

import os
import threading
from collections.abc import Iterator
from typing import BinaryIO

from hpcc.cache.layout import Cache
from hpcc.errors import IntegrityError
from hpcc.oci.digest import Verifier
from hpcc.oci.manifest import Descriptor
from hpcc.progress import Part
from hpcc.registry.upstream import Upstream

CHUNK = 1 << 20


class GrowingFile:
    """A blob on its way: one thread downloads into a file, another reads it while it grows.

    The reader sees bytes that are not verified yet; only when its iterator ends without an error were they what their
    digest says. A download that starts again makes the reader fail with `Restarted`. The first `have` bytes of the
    file are from an earlier try.
    """

    def __init__(self, file: BinaryIO, progress: Part, have: int = 0) -> None:
        self._file, self._progress = file, progress
        self._changed = threading.Condition()
        self._size, self._restarts = have, 0
        self._ended = self._cancelled = False
        self._error: BaseException | None = None
        progress.advance(have)

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    # The downloading side: a sink of fetch_blob

    def rehash(self, verifier: Verifier) -> None:
        """Have `verifier` see what the file has already."""
        offset = 0
        while offset < self._size and not self._cancelled:
            data = os.pread(self._file.fileno(), min(CHUNK, self._size - offset), offset)
            if not data:
                raise OSError("the file of a download was cut short")
            verifier.update(data)
            offset += len(data)

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

    @property
    def restarts(self) -> int:
        """How often the download began again."""
        return self._restarts

    def wait(self, restarts: int | None = None) -> None:
        """Return when all is there and verified. Raises what the download raised; Restarted where it began again since
        there were so many `restarts`.
        """
        with self._changed:
            while not self._ended and restarts in (None, self._restarts):
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if restarts not in (None, self._restarts):
                raise Restarted

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


def download(upstream: Upstream, descriptor: Descriptor, target: GrowingFile) -> None:
    """Fetch a layer into `target`; errors go to whoever reads it."""
    try:
        verifier = Verifier(descriptor.digest, descriptor.size, f"{descriptor.digest} of {upstream.name}")
        target.rehash(verifier)
        upstream.fetch(descriptor, target, verifier)
    except IntegrityError as error:
        try:
            target.restart()  # nobody goes on from bytes that are wrong
        except (OSError, ValueError):
            pass  # the file is closed already
        finally:
            target.end(error)
    except BaseException as error:
        target.end(error)
    else:
        target.end()


def cached_chunks(caches: tuple[Cache, ...], descriptor: Descriptor) -> Iterator[bytes] | None:
    """A layer that a cache has, verified while it is read: IntegrityError at its end where it is damaged."""
    for cache in caches:
        fd = cache.open(cache.blob(descriptor.digest.algorithm, descriptor.digest.hex))
        if fd is None:
            continue
        file = open(fd, "rb", buffering=0)  # closed with the iterator, also where nobody begins to read it
        if os.fstat(fd).st_size == descriptor.size:
            return _verified(file, descriptor)
        file.close()
    return None


def _verified(file: "BinaryIO", descriptor: Descriptor) -> Iterator[bytes]:
    verifier = Verifier(descriptor.digest, descriptor.size)
    with file:
        while data := file.read(CHUNK):
            verifier.update(data)
            yield data
    verifier.finish()
