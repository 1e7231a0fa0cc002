"""The command line: find the command, let it parse and act, say what went wrong, return a status."""

from __future__ import annotations

import os
import sys

from hpcc.errors import EX_FAILURE, HpccError, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcc.cli.arguments import Arguments


COMMANDS = {
    "cache": ("cache", "list and clean the cache of images"),
    "config": ("config", "show all settings and where each comes from"),
    "demo": ("demo", "try everything, offline, in a minute"),
    "doctor": ("doctor", "can this host run containers, and how"),
    "exec": ("run", "run a command in an image"),
    "inspect": ("inspect", "show what an image says about itself"),
    "instance": ("instance", "containers that stay in the background, by name"),
    "limits": ("limits", "how many pulls registries still allow, at no cost"),
    "lock": ("lock", "pin tags to digests, in hpcc.lock"),
    "overlay": ("overlay", "make an ext3 image to be an overlay of containers"),
    "pull": ("pull", "fetch an image from a registry into a SIF file"),
    "registry": ("registry", "log in to registries, log out, and list the logins"),
    "remote": ("registry", "the same as registry"),
    "run": ("run", "run what the image is made to run"),
    "shell": ("run", "open a shell in an image"),
    "shim": ("shim", "stand in for apptainer where scripts call it by name"),
    "sif": ("sif", "list what is in a SIF file, and change it"),
}
"""Name -> (module in hpcc.cli, what it does)."""

_GLOBAL = frozenset(("-q", "--quiet", "-s", "--silent", "-v", "--verbose", "-d", "--debug", "--nocolor"))


def console() -> None:
    """Entry point: run, then leave with the status."""
    status = main(sys.argv[1:])
    try:
        if sys.stdout is not None:  # as it is where 1 is closed
            sys.stdout.flush()
    except BrokenPipeError:  # what was said last nobody read; the interpreter must not complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = status or 128 + 13
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        say("FATAL", f"cannot write to stdout: {error.strerror}")
        status = status or EX_FAILURE
    sys.exit(status)


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says; the exit status. Errors go to stderr; a traceback only with --debug."""
    debug = False
    try:
        before = 0
        while before < len(argv) and argv[before] in _GLOBAL:
            before += 1
        debug = bool({"-d", "--debug"} & set(argv[:before])) or os.environ.get("HPCC_DEBUG", "") not in ("", "0")
        return _dispatch(list(argv[:before]), list(argv[before:]))
    except HpccError as error:
        say("FATAL", error.message)
        if error.hint:
            say("HINT", error.hint)
        if debug:
            _trace()
        return error.exit_code
    except KeyboardInterrupt:
        say("FATAL", "interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush is quiet
        return 128 + 13
    except OSError as error:
        say("FATAL", f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        say("HINT", "With `hpcc --debug` you see where; please report it, hpcc should have said it better.")
        if debug:
            _trace()
        return EX_FAILURE


def _trace() -> None:
    """Show where it came from; the exit status is the same as without --debug."""
    import traceback

    traceback.print_exc()


def _dispatch(options: list[str], argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("--version", "version"):
        print(f"hpcc version {__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        return _help(argv[1:])
    if name.startswith("-"):
        raise UsageError(
            f"unknown option {name}", hint="hpcc [--quiet|--debug] COMMAND …; `hpcc --help` lists the commands."
        )
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}", hint=f"Did you mean {_closest(name)}? `hpcc --help` lists all.")
    from importlib import import_module

    module = import_module(f"hpcc.cli.{COMMANDS[name][0]}")
    return int(module.main(name, [*options, *argv[1:]]))


def _help(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return _dispatch([], [argv[0], "--help"])
    print("hpcc: Docker and OCI images on HPC clusters, without Docker and without root\n")
    print("Usage: hpcc [--quiet|--verbose|--debug] COMMAND [OPTIONS] …\n\nCommands:")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<10} {summary}")
    print("\n`hpcc COMMAND --help` tells more. Example:\n  hpcc exec docker://python:3.12 python3 -c 'print(1)'")
    return 0


def _closest(name: str) -> str:
    from difflib import get_close_matches

    return (get_close_matches(name, COMMANDS, 1) or ["one of " + ", ".join(COMMANDS)])[0]


def inform(arguments: Arguments, text: str) -> None:
    """Say how it went, unless the user wants to hear only what went wrong."""
    if not arguments.quiet and not arguments.silent:
        say("INFO", text)


def say(level: str, text: str) -> None:
    """One message to stderr, in the form that Apptainer's users know."""
    sys.stderr.write(f"{level + ':':<9}{text}\n")
