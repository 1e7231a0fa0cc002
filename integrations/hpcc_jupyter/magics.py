"""`%hpcc` and `%%hpcc` of IPython, in a notebook or a terminal.

%hpcc pull docker://python:3.12          an Image, with bars; %hpcc limits and %hpcc cache stats give tables
%hpcc doctor                             any other command of hpcc's, as typed
%%hpcc [OPTIONS] IMAGE [COMMAND…]        the cell is what the command reads: sh, python3 with --python
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from IPython.core.error import UsageError as MagicError

import hpcc
from hpcc.cli.arguments import Command, Option, help_text, parse
from hpcc.cli.run import COMMANDS
from hpcc.errors import HpccError, UsageError
from hpcc.invoke import program
from hpcc_jupyter.reports import cache_stats, limits
from hpcc_jupyter.streaming import stream

_OWN = (
    Option(("--out",), "put what it writes to stdout into a variable, and do not show it", "VAR"),
    Option(("--no-raise",), "go on where the command fails"),
    Option(("--python",), "the cell is Python, for the image's python3"),
)
CELL = Command(
    "%%hpcc [OPTIONS] IMAGE [COMMAND…]",
    "Run a cell's text in an image: by its sh, or as the input of COMMAND. Further options are those of `hpcc exec`.",
    (*_OWN, *COMMANDS["exec"].options),
    "%%hpcc --out listing docker://debian:12\nls /etc",
    stops=True,
)
_MINE = {name for option in _OWN for name in option.names}


def register(shell: Any) -> None:
    """Give the shell the magics. Idempotent."""

    def line_magic(line: str) -> Any:
        return _shown(_line, line)

    def both(line: str, cell: str | None = None) -> Any:
        return line_magic(line) if cell is None else _shown(_cell, line, cell, shell)

    both.__doc__ = __doc__
    shell.register_magic_function(both, "line_cell", "hpcc")


def _shown(act: Any, *args: Any) -> Any:
    """Errors of hpcc's as IPython shows those of magics, without a traceback."""
    try:
        return act(*args)
    except HpccError as error:
        raise MagicError(f"{error.message}\n{error.hint}".rstrip()) from None


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%hpcc {line}: {error}") from None


def _line(line: str) -> Any:
    words = _split(line)
    if len(words) == 2 and words[0] == "pull" and words[1].startswith("docker://"):
        return hpcc.pull(words[1])
    if words == ["cache", "stats"]:
        return cache_stats()
    if words[:1] == ["limits"] and not any(word.startswith("-") for word in words):
        return limits(*words[1:])
    status = stream([*program(), *(words or ["--help"])])
    if status:
        raise subprocess.CalledProcessError(status, ["hpcc", *words])
    return None


def _cell(line: str, cell: str, shell: Any) -> None:
    """What the cell writes is shown while it is written. CalledProcessError, unless --no-raise, where it fails."""
    words = _split(line)
    arguments = parse(CELL, [word for word in words if word not in ("-h", "--help")])
    if {"-h", "--help"} & set(words) and not arguments.positional:
        print(help_text(CELL))
        return
    if not arguments.positional:
        raise UsageError("%%hpcc needs an image", hint="%%hpcc docker://debian:12")
    if arguments.out is not None and not arguments.out.isidentifier():
        raise UsageError(f"--out {arguments.out!r} is no name of a variable")
    image, *command = arguments.positional
    if command and arguments.python:
        raise UsageError("--python and a command exclude each other")
    options = _options(words[: len(words) - len(arguments.positional)])
    command = command or (["python3", "-"] if arguments.python else ["sh"])
    said: list[str] | None = [] if arguments.out is not None else None
    status = stream([*program(), "exec", *options, "--", image, *command], cell, said)
    shell.user_ns["_exit_code"] = status
    if said is not None:
        shell.user_ns[arguments.out] = "".join(said)
    if status and not arguments.no_raise:
        raise subprocess.CalledProcessError(status, [image, *command])


def _options(words: list[str]) -> list[str]:
    """Those that are `hpcc exec`'s."""
    found = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, _ = word.partition("=")
        if name in _MINE:
            if name == "--out" and not equals:
                queue.pop(0)
        elif word != "--":
            found.append(word)
    return found
