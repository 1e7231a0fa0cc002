"""Putting signatures on a SIF, and looking at those that it has."""

import io
from collections.abc import Callable, Sequence

from hpcc.copy import changed_file
from hpcc.errors import HpccError, IntegrityError
from hpcc.records import NamedTuple
from hpcc.sif import edit, integrity
from hpcc.sif.create import Object
from hpcc.sif.descriptor import GROUP, SIGNATURE, Descriptor
from hpcc.sif.extra import signature_extra
from hpcc.sif.integrity import ReadAt, Unsigned
from hpcc.sif.load import Sif


class Signed(NamedTuple):
    """A document signed, SIF's number of the hash, and the signer's fingerprint, 20 bytes or none."""

    message: bytes
    hash: int
    fingerprint: bytes = b""


class Opened(NamedTuple):
    """What a signature signs, and by whom: the fingerprint, "" for a key in PEM."""

    content: bytes
    fingerprint: str = ""


class Result(NamedTuple):
    """One signature: of a group, by whom, which objects it holds for, which it names; or why it does not hold."""

    signature: Descriptor
    fingerprint: str
    verified: tuple[Descriptor, ...]
    error: HpccError | None = None


def sign(path: str, sign_one: Callable[[bytes], Signed], *, group: int = 0, id: int = 0, now: int) -> None:
    """Add one signature for each group of the SIF, for `group`, or for the object `id` alone. Atomic.

    UsageError for a group or an object that is not there, InvalidImage, CacheError.
    """
    with changed_file(path) as file:

        def read_at(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        sif = edit.load_table(file).sif
        for number, objects in _tasks(sif, group, id):
            done = sign_one(integrity.statement(read_at, sif, number, objects or integrity.members(sif, number)))
            extra = signature_extra(done.hash, done.fingerprint)
            new = Object(SIGNATURE, "", len(done.message), extra, 1, 0, number | GROUP)
            edit.add(file, new, io.BytesIO(done.message), now=now)


def verify(
    read_at: ReadAt,
    sif: Sif,
    open_one: Callable[[Descriptor, bytes], Opened],
    found: Callable[[Result], None],
    *,
    group: int = 0,
    id: int = 0,
) -> None:
    """Every signature of every group, of `group`, or of the group of the object `id`, which alone is then looked at.

    `found` is told of each. Raises what the first one that does not hold raises, and Unsigned where there is none: for
    any of the groups, or for an object that is in no group.
    """
    if not group and not id and (alone := integrity.ungrouped(sif)):
        raise Unsigned(f"object {alone[0].id} is in no group, so that no signature covers it")
    for number, objects in _tasks(sif, group, id):
        signatures = integrity.signatures(sif, number)
        if not signatures:
            raise Unsigned(f"no signatures found: signature not found for object group {number}")
        for each in signatures:
            result = _look(read_at, sif, number, each, objects, open_one)
            found(result)
            if result.error is not None:
                raise result.error


def _look(
    read_at: ReadAt,
    sif: Sif,
    group: int,
    each: Descriptor,
    objects: Sequence[Descriptor],
    open_one: Callable[[Descriptor, bytes], Opened],
) -> Result:
    fingerprint = ""
    try:
        opened = open_one(each, integrity.read_signature(read_at, each))
        fingerprint = opened.fingerprint
        said = each.extra[4:24].hex().upper() if any(each.extra[4:24]) else ""
        if fingerprint[:40] != said:
            raise IntegrityError("fingerprint in descriptor does not correspond to signing entity")
        signed = integrity.parse_statement(opened.content)
        return Result(each, fingerprint, integrity.check(read_at, sif, group, signed, objects))
    except IntegrityError as error:
        told = type(error)(f"signature object {each.id} not valid: {error.message}", hint=error.hint)
        return Result(each, fingerprint, (), told)


def _tasks(sif: Sif, group: int, id: int) -> list[tuple[int, tuple[Descriptor, ...]]]:
    """(group, objects of it, none for all) to be signed or verified."""
    if id:
        chosen = sif.by_id(id)
        if not chosen.group_number:
            raise Unsigned(f"object {id} is in no group, so that no signature covers it")
        return [(chosen.group_number, (chosen,))]
    if group:
        integrity.members(sif, group)
        return [(group, ())]
    return [(number, ()) for number in integrity.groups(sif)]
