"""hpcc sif list, header, info: what a SIF says about itself, in Apptainer's form or as JSON."""

import json
import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.sif.opening import id_and_file, opened
from hpcc.cli.sif.stdout import write_lines
from hpcc.sif.descriptor import Descriptor
from hpcc.sif.extra import TYPES, details
from hpcc.sif.header import VERSION, ZERO_TIME, Header
from hpcc.sif.load import load

_JSON = (Option(("-j", "--json"), "as JSON; times in ISO 8601, null for what is not there"),)
LIST = Command("sif list [--json] FILE", "List the objects in a SIF.", _JSON, "hpcc sif list image.sif")
HEADER = Command("sif header [--json] FILE", "Show the global header of a SIF.", _JSON, "hpcc sif header image.sif")
INFO = Command(
    "sif info [--json] ID FILE", "Show what a SIF says about one of its objects.", _JSON, "hpcc sif info 1 image.sif"
)
_RULE = "-" * 78
Value = str | int | None


def list_objects(argv: list[str]) -> int:
    arguments = parse(LIST, argv)
    if len(arguments.positional) != 1:
        raise usage_error(LIST, "list needs one SIF file")
    with opened(arguments.positional[0], load) as (_, sif):
        if arguments.json:
            return _print_json([_as_json(_object(each)) for each in sif.descriptors])
        lines = [_RULE, f"{'ID':<4} {'|GROUP':<8} {'|LINK':<8} {'|SIF POSITION (start-end)':<26} |TYPE", _RULE]
        for each in sif.descriptors:
            group = each.group_number or "NONE"
            link = f"{each.linked_group:<3} (G)" if each.linked_group else each.linked_object or "NONE"
            position = f"|{each.offset}-{each.offset + each.size} "
            lines.append(f"{each.id:<4} |{group:<7} |{link:<7} {position:<26} |{_kind(each)}")
    write_lines(lines)
    return 0


def show_header(argv: list[str]) -> int:
    arguments = parse(HEADER, argv)
    if len(arguments.positional) != 1:
        raise usage_error(HEADER, "header needs one SIF file")
    with opened(arguments.positional[0], load) as (_, sif):
        fields = _header(sif.header)
    if arguments.json:
        return _print_json(_as_json(fields))
    fields["Descriptors Size"] = _readable(sif.header.descriptors_size)
    fields["Data Size"] = _readable(sif.header.data_size)
    return _print_rows(fields, indent="", gap=1)


def show_object(argv: list[str]) -> int:
    arguments = parse(INFO, argv)
    id, path = id_and_file(INFO, arguments.positional)
    with opened(path, load) as (_, sif):
        each = sif.by_id(id)
    fields = _object(each)
    if arguments.json:
        return _print_json(_as_json(fields))
    group = fields.pop("Linked Group ID")
    fields["Group ID"] = fields["Group ID"] or "NONE"
    fields["Linked ID"] = f"{group} (G)" if group else fields["Linked ID"] or "NONE"
    return _print_rows(fields, indent="  ", gap=2)


def _header(head: Header) -> dict[str, Value]:
    return {
        "Launch Script": _text(head.launch.removesuffix(b"\n")) or None,
        "Version": _text(VERSION.rstrip(b"\0")),
        "Primary Architecture": head.arch if head.arch != "unknown" else None,
        "ID": str(UUID(bytes=head.uuid)) if any(head.uuid) else None,
        "Created At": _time(head.created),
        "Modified At": _time(head.modified),
        "Descriptors Free": head.free,
        "Descriptors Total": head.total,
        "Descriptors Offset": head.descriptors_offset,
        "Descriptors Size": head.descriptors_size,
        "Data Offset": head.data_offset,
        "Data Size": head.data_size,
    }


def _object(each: Descriptor) -> dict[str, Value]:
    return {
        "Data Type": TYPES.get(each.type, "Unknown"),
        "ID": each.id,
        "Group ID": each.group_number or None,
        "Linked ID": each.linked_object or None,
        "Linked Group ID": each.linked_group or None,
        "Offset": each.offset,
        "Size": each.size,
        "Created At": _time(each.created),
        "Modified At": _time(each.modified),
        "Name": _text(each.name) or None,
        **details(each),
    }


def _kind(each: Descriptor) -> str:
    """As in a list: FS (Squashfs/*System/amd64)."""
    found = {label: value for label, value in details(each).items() if label not in ("Entity", "Digest")}
    return TYPES.get(each.type, "Unknown") + (f" ({'/'.join(found.values())})" if found else "")


def _as_json(fields: dict[str, Value]) -> dict[str, Value]:
    """Labels as keys: "Data Type" is data_type."""
    return {label.lower().replace(" ", "_"): value for label, value in fields.items()}


def _print_json(value: object) -> int:
    write_lines(json.dumps(value, indent=1).replace("\x7f", "\\u007f").splitlines())
    return 0


def _print_rows(fields: dict[str, Value], *, indent: str, gap: int) -> int:
    rows = {f"{label}:": value for label, value in fields.items() if value is not None}
    width = max(map(len, rows)) + gap
    for label in rows.keys() & {"Created At:", "Modified At:"}:
        rows[label] = str(rows[label]).replace("T", " ").replace("Z", " +0000 UTC")
    write_lines([f"{indent}{label:<{width}}{value}" for label, value in rows.items()])
    return 0


def _time(seconds: int) -> str | None:
    """ISO 8601; None for Go's zero time, the number itself for a year that no calendar has."""
    if seconds == ZERO_TIME:
        return None
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return str(seconds)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _readable(size: int) -> str:
    """27 KiB; rounded half away from zero."""
    unit, scaled = 0, float(abs(size))
    while scaled >= 1024 and unit < 6:
        unit, scaled = unit + 1, scaled / 1024
    number = math.floor(scaled + 0.5)
    return f"{-number if size < 0 else number} {['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][unit]}"
