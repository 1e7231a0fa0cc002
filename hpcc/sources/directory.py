"""An OCI layout in a directory, a stranger's perhaps: no link in it is followed, and nothing but files is read."""

import errno
import os
import stat
from collections.abc import Iterator

from hpcc.errors import ImageNotFound, InvalidImage, UsageError
from hpcc.oci.document import MAX_DOCUMENT

CHUNK = 1 << 20
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class Directory:
    """Files by their paths below a directory; see onhost.Files. To be closed. Safe to read from several threads."""

    def __init__(self, path: str) -> None:
        """ImageNotFound, UsageError where it is no directory that can be read."""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENOTDIR and os.path.isfile(path):
                raise UsageError(
                    f"{path} is a file", hint=f"An OCI layout in an archive is oci-archive:{path}."
                ) from None
            kind = ImageNotFound if error.errno in _MISSING else UsageError
            raise kind(f"{path}: {error.strerror}", hint="oci: names a directory with an OCI layout.") from None

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def __contains__(self, path: str) -> bool:
        try:
            os.close(self._open(path))
        except InvalidImage:
            return False
        return True

    def size(self, path: str) -> int:
        fd = self._open(path)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def document(self, path: str) -> bytes:
        with open(self._open(path), "rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise InvalidImage(f"{path}: more than the {MAX_DOCUMENT} bytes that one may have")
        return data

    def chunks(self, path: str) -> Iterator[bytes]:
        with open(self._open(path), "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                yield data

    def _open(self, path: str) -> int:
        """A regular file, each part of whose path is itself there. InvalidImage."""
        *parents, name = path.split("/")
        directory = self._fd
        try:
            for part in parents:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                if directory != self._fd:
                    os.close(directory)
                directory = below
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            why = "is a link, which is not followed" if error.errno == errno.ELOOP else f"{error.strerror}"
            raise InvalidImage(f"{path[:200]}: {why}", hint="The layout is not whole: copy it again.") from None
        finally:
            if directory != self._fd:
                os.close(directory)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidImage(f"{path[:200]} is no file")
        return fd
