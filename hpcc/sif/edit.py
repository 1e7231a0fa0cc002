"""Changing a SIF in an open file: add an object, delete one, choose the primary partition.

The bytes are those that the reference library writes in place. None of this is atomic: whoever calls it gives a copy of
the file, or one that nobody else knows. What is refused is refused before the first write.
"""

import hashlib
from typing import BinaryIO

from hpcc.sif import table as tables
from hpcc.sif.create import Object
from hpcc.sif.descriptor import OCI_BLOB, OCI_ROOT_INDEX, Descriptor
from hpcc.sif.header import ZERO_TIME
from hpcc.sif.table import Table

_CHUNK = 1 << 20


def load_table(file: BinaryIO) -> Table:
    """Errors as of `table.read`."""

    def read_at(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    return tables.read(read_at, file.seek(0, 2))


def add(file: BinaryIO, new: Object, content: BinaryIO, *, now: int = ZERO_TIME) -> Descriptor:
    """Write what `content` still has as an object behind the others; its size is counted, not taken from `new`.

    An OCI blob or root index without extra gets its SHA-256. Errors as of `table.add`, and those of both files.
    """
    before = load_table(file)
    offset = tables.add(before, new)[1].offset
    size, digest = 0, hashlib.sha256() if new.type in (OCI_BLOB, OCI_ROOT_INDEX) and not new.extra else None
    file.seek(offset)
    while chunk := content.read(_CHUNK):
        file.write(chunk)
        size += len(chunk)
        if digest:
            digest.update(chunk)
    if not size and file.seek(0, 2) < offset:
        file.seek(offset - 1)  # the reference library leaves an object without bytes behind the end of the file
        file.write(b"\0")
    extra = f"sha256:{digest.hexdigest()}".encode() if digest else new.extra
    after, made = tables.add(before, new._replace(size=size, extra=extra), now)
    _write(file, before, after)
    return made


def delete(file: BinaryIO, id: int, *, zero: bool = False, compact: bool = False, now: int = ZERO_TIME) -> None:
    """Free an object's descriptor. Its bytes stay in the file, unless `zero` writes NULs over them.

    `compact`: the file ends with the last object that is left. UsageError for an unknown id.
    """
    before = load_table(file)
    after = tables.delete(before, id, now, compact=compact)
    gone = before.sif.by_id(id)
    if zero:
        file.seek(gone.offset)
        for done in range(0, gone.size, _CHUNK):
            file.write(bytes(min(_CHUNK, gone.size - done)))
    if compact:
        file.truncate(after.end)
    _write(file, before, after)


def set_primary(file: BinaryIO, id: int, *, now: int = ZERO_TIME) -> None:
    """Make a system partition the primary one. Idempotent. Errors as of `table.set_primary`."""
    before = load_table(file)
    _write(file, before, tables.set_primary(before, id, now))


def _write(file: BinaryIO, before: Table, after: Table) -> None:
    for offset, data in after.writes(before):
        file.seek(offset)
        file.write(data)
