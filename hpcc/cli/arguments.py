"""Parse a command's options and print its help: one table for both.

Not argparse: it would cost a warm run 8 ms, and does not stop at the image, behind which all is the payload's.
The grammar is that of Apptainer's command line: --name value, --name=value, -n value, -nvalue, -ce for -c -e, flags
with =true or =false, and `--` ends the options.
"""

from __future__ import annotations

from hpcc.errors import Unknown, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Option(NamedTuple):
    """One option. `value` names its argument in the help, "" makes it a flag. `many`: it may be repeated."""

    names: tuple[str, ...]
    help: str
    value: str = ""
    many: bool = False

    @property
    def key(self) -> str:
        return max(self.names, key=len).lstrip("-").replace("-", "_")


class Command(NamedTuple):
    """usage without the program's name; `stops`: options end at the first argument that is none."""

    usage: str
    summary: str
    options: tuple[Option, ...]
    example: str
    stops: bool = False


GLOBAL = (
    Option(("-q", "--quiet"), "say only what went wrong"),
    Option(("-s", "--silent"), "say only why it failed"),
    Option(("-v", "--verbose"), "say more"),
    Option(("-d", "--debug"), "say everything, with tracebacks"),
    Option(("--nocolor",), "no colours"),
    Option(("-h", "--help"), "this text"),
)


class Arguments(NamedTuple):
    """Parsed: `options` has a bool, str or list for each option of the command, by its key."""

    options: dict[str, Any]
    positional: list[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.options[name]
        except KeyError:
            raise AttributeError(name) from None


def parse(command: Command, argv: Sequence[str]) -> Arguments:
    """Parse `argv`. UsageError, which has the usage line as its hint; Unknown for options that are not in the table.

    With --help: prints it and exits.
    """
    table = {name: option for option in (*GLOBAL, *command.options) for name in option.names}  # its own names win
    values: dict[str, Any] = {
        option.key: [] if option.many else (None if option.value else False) for option in (*command.options, *GLOBAL)
    }
    positional: list[str] = []
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        if word == "--":
            positional += queue
            break
        if not word.startswith("-") or word == "-":
            positional.append(word)
            if command.stops:
                positional += queue
                break
            continue
        name, equals, attached = word.partition("=")
        if not word.startswith("--") and len(word) > 2:  # -ce, -Bvalue
            name, rest = word[:2], word[2:]
            option = table.get(name)
            if option and option.value:
                equals, attached = "=", rest.removeprefix("=")
            else:
                equals, attached = "", ""
                queue.insert(0, "-" + rest)
        option = table.get(name)
        if option is None:
            raise Unknown(f"unknown option {name}", hint=f"Usage: hpcc {command.usage}")
        if not option.value:
            if equals and attached not in ("true", "false"):
                raise UsageError(f"{name} takes no value", hint=f"Usage: hpcc {command.usage}")
            values[option.key] = attached != "false"
            continue
        if not equals:
            if not queue:
                raise UsageError(f"{name} needs a value: {option.value}", hint=f"Usage: hpcc {command.usage}")
            attached = queue.pop(0)
        if option.many:
            values[option.key].append(attached)
        else:
            values[option.key] = attached
    if values["help"]:
        print(help_text(command))
        raise SystemExit(0)
    return Arguments(values, positional)


def usage_error(command: Command, message: str) -> UsageError:
    return UsageError(message, hint=f"Usage: hpcc {command.usage}")


def help_text(command: Command) -> str:
    """At most 80 columns."""
    lines = [f"Usage: hpcc {command.usage}", "", *wrapped(command.summary, "", ""), "", "Options:"]
    own = {name for option in command.options for name in option.names}
    others = (option._replace(names=tuple(name for name in option.names if name not in own)) for option in GLOBAL)
    for option in (*command.options, *others):
        left = ", ".join(option.names) + (f" {option.value}" if option.value else "")
        lines += _two_columns(left, option.help)
    return "\n".join([*lines, "", "Example:", *(f"  {line}" for line in command.example.splitlines())])


def _two_columns(left: str, right: str) -> list[str]:
    first, rest = f"  {left:<26}", " " * 28
    return [first.rstrip(), *wrapped(right, rest, rest)] if len(left) > 24 else wrapped(right, first, rest)


def wrapped(text: str, first: str, rest: str) -> list[str]:
    """`text` in lines of 80 columns that begin with `first` and then with `rest`; textwrap costs 4 ms."""
    lines, start = [], first
    current = ""
    for word in text.split():
        if current and len(start) + len(current) + 1 + len(word) > 80:
            lines.append(start + current)
            start, current = rest, ""
        current += f" {word}" if current else word
    return [*lines, start + current]
