"""hpcc sif del, setprim, new; and what every change to a SIF tells the user."""

import time

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.sif.opening import id_and_file, opened
from hpcc.copy import changed_file, new_file
from hpcc.sif import edit, table
from hpcc.sif.create import layout
from hpcc.sif.descriptor import SIGNATURE, Descriptor
from hpcc.sif.load import Sif
from hpcc.sif.table import Table, signatures_over

DELETE = Command(
    "sif del [OPTIONS] ID FILE",
    "Delete an object. Its bytes stay in the file until others are written over them, unless an option says otherwise.",
    (
        Option(("--zero",), "write zeros over its bytes"),
        Option(("--compact",), "cut the file off behind the last object that is left"),
    ),
    "hpcc sif del 3 image.sif",
)
SETPRIM = Command(
    "sif setprim ID FILE",
    "Make a system partition the primary one, from which containers run. The former one stays, as a system partition.",
    (),
    "hpcc sif setprim 4 image.sif",
)
NEW = Command(
    "sif new [OPTIONS] FILE",
    "Make a SIF without objects. It has no id and no clock, so that the same commands always make the same bytes.",
    (Option(("-F", "--force"), "replace the file if it is there"),),
    "hpcc sif new image.sif",
)


def delete(argv: list[str]) -> int:
    arguments = parse(DELETE, argv)
    id, path = id_and_file(DELETE, arguments.positional)
    with opened(path, table.read) as (_, before):
        gone = before.sif.by_id(id)
    with changed_file(path) as file:
        edit.delete(file, id, zero=arguments.zero, compact=arguments.compact, now=int(time.time()))
    warn_of_signatures(arguments, before.sif, gone)
    return 0


def set_primary(argv: list[str]) -> int:
    arguments = parse(SETPRIM, argv)
    id, path = id_and_file(SETPRIM, arguments.positional)
    with opened(path, table.read) as (_, before):
        after = table.set_primary(before, id)
    if after == before:
        return 0  # it is the primary one; the file stays as it is
    with changed_file(path) as file:
        edit.set_primary(file, id, now=int(time.time()))
    warn_of_signatures(arguments, before.sif, *_changed(before, after))
    return 0


def new(argv: list[str]) -> int:
    arguments = parse(NEW, argv)
    if len(arguments.positional) != 1:
        raise usage_error(NEW, "new needs the name of a file")
    with new_file(arguments.positional[0], replace=arguments.force) as file:
        file.write(layout([], arch="unknown", launch=b"").head)
    return 0


def warn_of_signatures(arguments: Arguments, sif: Sif, *changed: Descriptor) -> None:
    """Say which of the SIF's signatures these objects' change, coming or going makes void."""
    void = sorted({id for each in changed for id in signatures_over(sif, each)})
    if void and not arguments.silent:
        one, ids = len(void) == 1, ", ".join(map(str, void))
        which = f"The signature in object {ids} does" if one else f"The signatures in objects {ids} do"
        say("WARNING", f"{which} not hold any more: what {'it signs' if one else 'they sign'} has changed.")


def warn_of_unsigned(arguments: Arguments, sif: Sif, made: Descriptor) -> None:
    """Say that the SIF will not verify as a whole, where it has signatures and the new object none."""
    if made.type == SIGNATURE or not any(each.type == SIGNATURE for each in sif.descriptors) or arguments.silent:
        return
    if not made.group_number:
        say(
            "WARNING",
            f"Object {made.id} is in no group (--groupid), so that it cannot be signed, nor the SIF verified.",
        )
    elif not signatures_over(sif, made):
        say("WARNING", f"Nobody has signed group {made.group_number}: the SIF does not verify until somebody does.")


def _changed(before: Table, after: Table) -> list[Descriptor]:
    return [old for old, new in zip(before.slots, after.slots, strict=True) if old is not None and old != new]
