"""What a SIF that hpcc made says about itself: the key of its bytes, and the image that it is."""

import os
import stat

from hpcc.errors import HpccError
from hpcc.origin import MARK
from hpcc.quickjson import loads
from hpcc.records import NamedTuple
from hpcc.sif import descriptor
from hpcc.sif.load import load

MAX_SIZE = 1 << 20
_KEY = 64  # hexadecimal digits


class Mark(NamedTuple):
    """`reference` is registry/repository@digest."""

    key: str
    reference: str


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return len(text) == _KEY and not text.strip("0123456789abcdef")


def read_mark(fd: int) -> Mark | None:
    """The mark of the SIF in an open file; None where it is none, or not hpcc's. What it says is the file's word."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        sif = load(lambda offset, length: os.pread(fd, length, offset), status.st_size)
        found = sif.find(descriptor.GENERIC_JSON, MARK)
        if found is None or found.size > MAX_SIZE:
            return None
        document = loads(os.pread(fd, found.size, found.offset))
        key, reference = document["key"], document["reference"]
    except (HpccError, OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(key, str) or not is_key(key) or not isinstance(reference, str) or not reference.isprintable():
        return None
    return Mark(key, reference)


def read_mark_at(path: str) -> Mark | None:
    """The same of the file at `path`, links followed. OSError where there is none, or it may not be read.

    Nothing but a regular file is opened: a path may be a stranger's word, and to open a device can act on it.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return read_mark(fd)
        finally:
            os.close(fd)
    finally:
        os.close(place)
