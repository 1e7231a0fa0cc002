"""What a signature in a SIF says, and whether the file still is what it says.

A signature is an object of no group that is linked to the group it is about. Its bytes are this document, signed
(OpenPGP's cleartext form, or a DSSE envelope), in one line and in this order:

    {"version":1,
     "header":{"digest":"sha256:<hex>"},         of launch 32, magic 10, version 3, uuid 16 bytes of the global header
     "objects":[{"relativeId":0,                 the object's id less the least id of its group
                 "descriptorDigest":"sha256:…",  of type i32, used u8, relative id u32, link u32, size i64, created i64,
                                                 uid i64, gid i64, name 128, extra 384 bytes, packed, little-endian
                 "objectDigest":"sha256:…"}]}    of the object's bytes

So an object may lie elsewhere in the file, and its id may be another, and the signature still holds. Where a file has
other objects in the group, or fewer, it does not. As github.com/sylabs/sif, pkg/integrity.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hpcc.errors import IntegrityError, InvalidImage, UsageError
from hpcc.records import NamedTuple
from hpcc.sif.descriptor import EXTRA_SIZE, NAME_SIZE, SIGNATURE, Descriptor
from hpcc.sif.load import Sif

MEDIA_TYPE = "application/vnd.sylabs.sif-metadata+json"
MAX_SIGNATURE = 1 << 20
"""Bytes of a signature object that are read: 4096 objects take 900 KiB."""

_CHUNK = 1 << 20
_ALGORITHMS = {"sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_DESCRIPTOR = struct.Struct("<i?IIqqqq128s384s")

ReadAt = Callable[[int, int], bytes]


class Unsigned(IntegrityError):
    """What should be signed is not: no signature, or one of other objects."""


class Statement(NamedTuple):
    """A signed document, parsed; digests as algorithm:hex, objects by their relative id."""

    header: str
    objects: dict[int, tuple[str, str]]


def groups(sif: Sif) -> tuple[int, ...]:
    """The numbers of its groups, in order. InvalidImage where there are none: nothing can be signed."""
    found = tuple(sorted({each.group_number for each in sif.descriptors if each.group_number}))
    if not found:
        raise InvalidImage("the SIF has no group of objects, and only groups are signed")
    return found


def members(sif: Sif, group: int) -> tuple[Descriptor, ...]:
    """The objects of a group, by id. UsageError where there is no such group."""
    found = sorted((each for each in sif.descriptors if group and each.group_number == group), key=lambda each: each.id)
    if not found:
        raise UsageError(f"the SIF has no group {group}", hint="`hpcc sif list` shows them.")
    return tuple(found)


def signatures(sif: Sif, group: int) -> tuple[Descriptor, ...]:
    """The signatures of a group, whoever made them."""
    return tuple(each for each in sif.descriptors if each.type == SIGNATURE and each.linked_group == group)


def ungrouped(sif: Sif) -> tuple[Descriptor, ...]:
    """Objects that no signature can cover, since they are in no group."""
    return tuple(each for each in sif.descriptors if each.type != SIGNATURE and not each.group_number)


def statement(read_at: ReadAt, sif: Sif, group: int, objects: Sequence[Descriptor]) -> bytes:
    """The document to sign about these objects of a group. InvalidImage for a file that ends early."""
    least = members(sif, group)[0].id
    described = [
        {
            "relativeId": each.id - least,
            "descriptorDigest": f"sha256:{hashlib.sha256(_descriptor(each, each.id - least)).hexdigest()}",
            "objectDigest": f"sha256:{_hash(read_at, each, 'sha256')}",
        }
        for each in sorted(objects, key=lambda each: each.id)
    ]
    document = {
        "version": 1,
        "header": {"digest": f"sha256:{hashlib.sha256(_header(read_at)).hexdigest()}"},
        "objects": described,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def parse_statement(data: bytes) -> Statement:
    """IntegrityError for what is no such document, or one that hpcc cannot check whole."""
    try:
        document: Any = json.loads(data)
        if document["version"] != 1:
            raise IntegrityError(f"the signed document is of version {document['version']!r}; hpcc reads version 1")
        objects: dict[int, tuple[str, str]] = {}
        for each in document["objects"]:
            id, digests = each["relativeId"], (_digest(each["descriptorDigest"]), _digest(each["objectDigest"]))
            if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < 1 << 32 or id in objects:
                raise ValueError("relativeId")
            objects[id] = digests
        return Statement(_digest(document["header"]["digest"]), objects)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("the signed document does not tell of a SIF's objects") from None


def check(
    read_at: ReadAt, sif: Sif, group: int, signed: Statement, only: Sequence[Descriptor] = ()
) -> tuple[Descriptor, ...]:
    """The objects that are as the document says: all of the group, or `only` these of it.

    Unsigned where the document is about other objects than the group has; IntegrityError where one was changed.
    """
    least = members(sif, group)[0].id
    wanted = tuple(only) or members(sif, group)
    if _of(_header(read_at), signed.header) != signed.header:
        raise IntegrityError("header integrity compromised: the SIF's header is not what was signed")
    for each in wanted:
        if each.id - least not in signed.objects:
            raise Unsigned(f"object {each.id}: object not signed")
    if not only and (gone := signed.objects.keys() - {each.id - least for each in wanted}):
        raise Unsigned(f"object {min(gone) + least}: signed object not found")
    for each in wanted:
        descriptor, content = signed.objects[each.id - least]
        if _of(_descriptor(each, each.id - least), descriptor) != descriptor:
            raise IntegrityError(f"data object descriptor integrity compromised: {each.id}")
        algorithm = content.partition(":")[0]
        if f"{algorithm}:{_hash(read_at, each, algorithm)}" != content:
            raise IntegrityError(f"data object integrity compromised: {each.id}")
    return wanted


def read_signature(read_at: ReadAt, each: Descriptor) -> bytes:
    """The bytes of a signature object. InvalidImage where they are too many to be one."""
    if each.size > MAX_SIGNATURE:
        raise InvalidImage(f"object {each.id} of {each.size} bytes is no signature: those have {MAX_SIGNATURE} at most")
    return read_at(each.offset, each.size)


def _digest(value: Any) -> str:
    """ValueError unless it is algorithm:hex of an algorithm that the reference library writes and hpcc trusts."""
    algorithm, _, text = value.partition(":")
    if _ALGORITHMS.get(algorithm) != len(text) or text.strip("0123456789abcdef"):
        raise ValueError(value)
    return str(value)


def _header(read_at: ReadAt) -> bytes:
    raw = read_at(0, 64)
    return raw[:45] + raw[48:]


def _descriptor(each: Descriptor, relative: int) -> bytes:
    name, extra = each.name.ljust(NAME_SIZE, b"\0"), each.extra.ljust(EXTRA_SIZE, b"\0")
    return _DESCRIPTOR.pack(
        each.type, True, relative, each.link, each.size, each.created, each.uid, each.gid, name, extra
    )


def _of(data: bytes, like: str) -> str:
    """The digest of `data` by the algorithm of another digest."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _hash(read_at: ReadAt, each: Descriptor, algorithm: str) -> str:
    digest, at, end = hashlib.new(algorithm), each.offset, each.offset + each.size
    while at < end:
        data = read_at(at, min(_CHUNK, end - at))
        if not data:
            raise InvalidImage("it was cut short while it was read")
        digest.update(data)
        at += len(data)
    return digest.hexdigest()
