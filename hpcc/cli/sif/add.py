"""hpcc sif add: a file as an object of a SIF."""

import os
import sys
import time
from typing import BinaryIO

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.sif.change import warn_of_signatures, warn_of_unsigned
from hpcc.cli.sif.opening import opened
from hpcc.copy import changed_file
from hpcc.errors import ImageNotFound, UsageError
from hpcc.sif import descriptor as d
from hpcc.sif import edit, table
from hpcc.sif.create import Object
from hpcc.sif.extra import FINGERPRINT_SIZE, HASHES, SBOM_FORMATS, sbom_extra, signature_extra
from hpcc.sif.header import ARCHITECTURES

_ARCHITECTURES = dict(enumerate(ARCHITECTURES[1:], 1))


def _numbered(names: dict[int, str]) -> str:
    return ", ".join(f"{number}-{name}" for number, name in names.items())


_TYPES = dict(
    enumerate(
        (
            "Deffile", "EnvVar", "Labels", "Partition", "Signature", "GenericJSON",
            "Generic", "CryptoMessage", "SBOM", "OCI.RootIndex", "OCI.Blob",
        ),
        1,
    )
)  # fmt: skip
_PARTS = {1: "System", 2: "PrimSys", 3: "Data", 4: "Overlay"}
_FILE_SYSTEMS = {
    1: "Squash", 2: "Ext3", 3: "ImmuObj", 4: "Raw", 5: "EncryptedSquash", 6: "GocryptfsSquash"
}  # fmt: skip
COMMAND = Command(
    "sif add --datatype N [OPTIONS] FILE OBJECT",
    "Add the file OBJECT, or stdin where that is -, as an object of the SIF file FILE. Options are Apptainer's.",
    (
        Option(("--datatype",), f"what it is: {_numbered(_TYPES)}", "N"),
        Option(("--parttype",), f"of a partition: {_numbered(_PARTS)}", "N"),
        Option(("--partfs",), f"of a partition, its file system: {_numbered(_FILE_SYSTEMS)}", "N"),
        Option(("--partarch",), f"of a partition, its architecture: {_numbered(_ARCHITECTURES)}", "N"),
        Option(("--signhash",), f"of a signature: {_numbered(HASHES)}", "N"),
        Option(("--signentity",), "of a signature: the key's fingerprint, 40 hex digits", "HEX"),
        Option(("--sbomformat",), f"of an SBOM: {', '.join(SBOM_FORMATS.values())}", "FORMAT"),
        Option(("--groupid",), "the group it belongs to; 0, the default, for none", "N"),
        Option(("--link",), "id of the object that it is about", "N"),
        Option(("--alignment",), "of its place in the file; 4096 for a partition, 0 for others unless given", "BYTES"),
        Option(("--filename",), "its name in the SIF; it has none unless given", "NAME"),
    ),
    "hpcc sif add --datatype 1 image.sif image.def\n"
    "hpcc sif add --datatype 4 --parttype 1 --partfs 1 --partarch 2 image.sif fs\n"
    "hpcc sif add --datatype 9 --sbomformat spdx-json image.sif sbom.json",
)
_MOST_ALIGNMENT = 1 << 30
_MOST_GROUP = d.GROUP - 1 & ~d.GROUP  # the upper bits say that it is a group


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 2:
        raise usage_error(COMMAND, "add needs a SIF file, and the file to add to it")
    path, source = arguments.positional
    wanted = _wanted(arguments)
    with opened(path, table.read) as (_, before):
        table.add(before, wanted)  # what cannot be added is refused before the file is copied
    with _open_object(source) as content, changed_file(path) as file:
        made = edit.add(file, wanted, content, now=int(time.time()))
    warn_of_signatures(arguments, before.sif, made)
    warn_of_unsigned(arguments, before.sif, made)
    return 0


def _wanted(arguments: Arguments) -> Object:
    """The object that the options describe. UsageError for options that are missing or wrong."""
    type = d.DEFFILE - 1 + _chosen(arguments, "datatype", _TYPES)
    name = os.fsencode(arguments.filename or "")
    if len(name) > d.NAME_SIZE:
        raise UsageError(f"--filename: {len(name)} bytes are too long", hint=f"At most {d.NAME_SIZE}.")
    alignment = _number(arguments, "alignment", -_MOST_ALIGNMENT, _MOST_ALIGNMENT)
    if arguments.alignment is not None:
        alignment = max(alignment, 1)  # where 0 is given, it means unaligned, for partitions too
    return Object(
        type,
        name,
        0,
        _extra(arguments, type),
        alignment=alignment,
        group=_number(arguments, "groupid", 0, _MOST_GROUP),
        link=_number(arguments, "link", 1, (1 << 32) - 1),
    )


def _extra(arguments: Arguments, type: int) -> bytes:
    if type == d.PARTITION:
        fs = _chosen(arguments, "partfs", _FILE_SYSTEMS)
        part = _chosen(arguments, "parttype", _PARTS)
        return d.partition_extra(fs, part, _ARCHITECTURES[_chosen(arguments, "partarch", _ARCHITECTURES)])
    if type == d.SIGNATURE:
        hash = _chosen(arguments, "signhash", HASHES)
        try:
            fingerprint = bytes.fromhex(arguments.signentity or "")
        except ValueError:
            fingerprint = b""
        if len(fingerprint) != FINGERPRINT_SIZE:
            raise UsageError(
                "a signature needs --signentity, the fingerprint of its key",
                hint=f"{2 * FINGERPRINT_SIZE} hex digits, as `gpg --fingerprint` shows them.",
            )
        return signature_extra(hash, fingerprint)
    if type == d.SBOM:
        given = "github-json" if arguments.sbomformat == "github" else arguments.sbomformat
        for number, name in SBOM_FORMATS.items():
            if name == given:
                return sbom_extra(number)
        raise UsageError("an SBOM needs --sbomformat", hint=f"One of {', '.join(SBOM_FORMATS.values())}.")
    return b""


def _chosen(arguments: Arguments, key: str, names: dict[int, str]) -> int:
    """The number that an option must have."""
    if arguments.options[key] is None:
        what = "add" if key == "datatype" else f"--datatype {arguments.datatype}"
        raise UsageError(f"{what} needs --{key}", hint=f"One of {_numbered(names)}.")
    return _number(arguments, key, 1, len(names), hint=f"One of {_numbered(names)}.")


def _number(arguments: Arguments, key: str, least: int, most: int, *, hint: str = "") -> int:
    """The number that an option has, 0 without it."""
    given = arguments.options[key]
    if given is None:
        return 0
    try:
        number = int(given[:40], 0)  # 0x4 too, as Apptainer takes it
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise UsageError(f"--{key} {given!r} is out of range", hint=hint or f"A number from {least} to {most}.")
    return number


def _open_object(path: str) -> BinaryIO:
    if path == "-":
        if sys.stdin is None:
            raise ImageNotFound("stdin is closed", hint="Name a file to add.")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        raise ImageNotFound(f"{path}: {error.strerror}") from None
