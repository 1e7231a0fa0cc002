"""What the subcommands of `hpcc sif` have in common: a SIF that is opened, and the id of an object."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hpcc.cli.arguments import Command, usage_error
from hpcc.errors import ImageNotFound, InvalidImage, UnsupportedImage, UsageError

Loaded = TypeVar("Loaded")


@contextmanager
def opened(path: str, loads: Callable[[Callable[[int, int], bytes], int], Loaded]) -> Iterator[tuple[int, Loaded]]:
    """The descriptor of the file at `path`, and what `loads(read_at, size)` makes of it.

    Errors of the format within the block, too, say that it is this file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = f"These commands take a file: `hpcc pull {path}` first." if "://" in path else ""
        raise ImageNotFound(f"{path}: {error.strerror}", hint=hint) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise InvalidImage(f"this is {kind}, not a SIF")
        yield fd, loads(lambda offset, length: pread(fd, length, offset), status.st_size)
    except (InvalidImage, UnsupportedImage, UsageError) as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None
    finally:
        os.close(fd)


def pread(fd: int, length: int, offset: int) -> bytes:
    """os.pread, for which a file that cannot be read is an image that is not valid."""
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise InvalidImage(f"cannot be read: {error.strerror}") from None


def id_and_file(command: Command, positional: list[str]) -> tuple[int, str]:
    """The arguments ID FILE."""
    if len(positional) != 2:
        raise usage_error(command, f"{command.usage.split()[1]} needs the id of an object and a SIF file")
    id, path = positional
    if not (id.isascii() and id.isdigit() and 0 < int(id[:12]) < 1 << 32):
        hint = "It comes before the file." if path.isdigit() else f"`hpcc sif list {path}` shows them."
        raise UsageError(f"{id!r} is no id of an object: a number from 1 on", hint=hint)
    return int(id), path
