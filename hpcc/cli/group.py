"""Commands that have subcommands: `hpcc cache list`, `hpcc registry login`."""

from __future__ import annotations

from hpcc.errors import Unknown, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from collections.abc import Mapping


class Subcommand(NamedTuple):
    """What it does, and the function that does it: `function(argv) -> status` of a module."""

    summary: str
    module: str
    function: str = "main"


def dispatch(name: str, argv: list[str], about: str, table: Mapping[str, Subcommand], example: str) -> int:
    """Run the subcommand that `argv` names, its first word that is no option; the status. UsageError without one,
    Unknown for one that is not in the table.
    """
    words = [word for word in argv if not word.startswith("-")]
    if not words or words[0] not in table:
        if {"-h", "--help"} & set(argv):
            print(f"Usage: hpcc {name} SUBCOMMAND [OPTIONS]\n\n{about}\n")
            for word, subcommand in table.items():
                print(f"  {word:<8} {subcommand.summary}")
            print(f"\n`hpcc {name} SUBCOMMAND --help` tells more. Example:\n  {example}")
            return 0
        hint = f"One of: {', '.join(table)}. `hpcc {name} --help` tells more."
        if words:
            raise Unknown(f"{name} has no subcommand {words[0]!r}", hint=hint)
        raise UsageError(f"{name} needs a subcommand", hint=hint)
    argv.remove(words[0])
    load_site_packages()
    from importlib import import_module

    subcommand = table[words[0]]
    return int(getattr(import_module(subcommand.module), subcommand.function)(argv))
