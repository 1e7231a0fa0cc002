"""The command line: find the command, let it parse and act, say what went wrong, return a status."""

from __future__ import annotations

import os
import sys

from hpcc.errors import EX_FAILURE, HpccError, Unknown
from hpcc.records import TYPE_CHECKING
from hpcc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcc.cli.arguments import Arguments


COMMANDS = {
    "build": ("build", "build an image from a definition file, a Dockerfile or an image"),
    "cache": ("cache", "list and clean the cache of images"),
    "completion": ("completion", "print what a shell needs to complete words of hpcc"),
    "config": ("config", "show all settings and where each comes from"),
    "delete": ("delete", "delete an image of a library"),
    "demo": ("demo", "try everything, offline, in a minute"),
    "doctor": ("doctor", "can this host run containers, and how"),
    "exec": ("run", "run a command in an image"),
    "inspect": ("inspect", "show what an image says about itself"),
    "instance": ("instance", "containers that stay in the background, by name"),
    "key": ("key", "OpenPGP keys, to sign SIFs and verify them"),
    "limits": ("limits", "how many pulls registries still allow, at no cost"),
    "lock": ("lock", "pin tags to digests, in hpcc.lock"),
    "overlay": ("overlay", "make an ext3 image to be an overlay of containers"),
    "pull": ("pull", "fetch an image from a registry into a SIF file"),
    "push": ("push", "put a SIF file into a registry"),
    "recipe": ("recipe", "a Dockerfile as a definition file"),
    "registry": ("registry", "log in to registries, log out, and list the logins"),
    "remote": ("registry", "the same as registry"),
    "run": ("run", "run what the image is made to run"),
    "run-help": ("run_help", "show what an image says of its use"),
    "search": ("search", "look for images in a library"),
    "shell": ("run", "open a shell in an image"),
    "shim": ("shim", "stand in for apptainer where scripts call it by name"),
    "sif": ("sif", "list what is in a SIF file, and change it"),
    "sign": ("sign", "put a digital signature on a SIF file"),
    "test": ("run", "run the test that an image brings along"),
    "verify": ("verify", "verify the signatures of a SIF file"),
}
"""Name -> (module in hpcc.cli, what it does)."""

STAND_IN = "--stand-in"
"""The first word of a command line that was typed as `apptainer …`: what `hpcc shim` makes begins with it."""
LIKE = "1.4.5"  # the Apptainer whose command line hpcc follows

_GLOBAL = {"-q": "--quiet", "-s": "--silent", "-v": "--verbose", "-d": "--debug"}
_GLOBALS = frozenset((*_GLOBAL, *_GLOBAL.values(), "--nocolor"))
_OTHERS = frozenset(("config",))  # commands of hpcc's whose name means another thing in Apptainer


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
    """Do what `argv` says; the exit status. Errors go to stderr; a traceback only with --debug.

    Behind the word STAND_IN what hpcc does not know is handed on to the real Apptainer, which this process becomes.
    """
    debug = False
    stand_in = bool(argv) and argv[0] == STAND_IN
    words = list(argv[1:] if stand_in else argv)
    try:
        before = 0
        while before < len(words) and words[before] in _GLOBALS:
            before += 1
        # Long names, since a command may have another option of the same letter.
        options = [_GLOBAL.get(word, word) for word in words[:before]]
        debug = "--debug" in options or os.environ.get("HPCC_DEBUG", "") not in ("", "0")
        try:
            return _dispatch(options, words[before:], stand_in=stand_in)
        except Unknown as why:
            if not stand_in:
                raise
            from hpcc.cli.behind import hand_on

            hand_on(words, why, quiet=bool({"--quiet", "--silent"} & set(options)))
            raise
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


def _dispatch(options: list[str], argv: list[str], *, stand_in: bool = False) -> int:
    name = argv[0] if argv else "--help"
    if name in ("--version", "version"):
        print(like_version(name) if stand_in else f"hpcc version {__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        if stand_in and argv[1:] and argv[1] not in COMMANDS:
            raise Unknown(f"no help for {argv[1]!r}", hint="`hpcc --help` lists hpcc's commands.")
        return _help(argv[1:])
    if name.startswith("-"):
        raise Unknown(
            f"unknown option {name}", hint="hpcc [--quiet|--debug] COMMAND …; `hpcc --help` lists the commands."
        )
    if stand_in and name in _OTHERS:
        raise Unknown(f"{name} is Apptainer's own", hint=f"`hpcc {name}` is another command, of hpcc's.")
    if name not in COMMANDS:
        if not stand_in:
            from hpcc.cli.integrations import GROUP, INTERPRETERS, integrations, run_integration

            # Where it stands in a #! line, the kernel gives it and all behind it as one word.
            if (found := integrations(GROUP, INTERPRETERS).get(name.partition(" ")[0])) is not None:
                return run_integration(found, [*options, *argv[1:]])
        raise Unknown(f"unknown command {name!r}", hint=f"Did you mean {_closest(name)}? `hpcc --help` lists all.")
    module = __import__(f"hpcc.cli.{COMMANDS[name][0]}", fromlist=("main",))  # importlib would bring warnings along
    return int(module.main(name, [*options, *argv[1:]]))


def like_version(word: str) -> str:
    """What Apptainer answers to `--version` or `version`: the number of the one that hpcc is like, and hpcc's own.

    The name is apptainer's also for `singularity`, as there: under that name programs expect a number above 2.4.
    """
    version = f"{LIKE}+hpcc{'.'.join(__version__.split('.')[:2])}"
    return f"apptainer version {version}" if word == "--version" else version


def _help(argv: list[str]) -> int:
    from hpcc.cli.integrations import GROUP, integrations

    others = integrations(GROUP)
    if argv and (argv[0] in COMMANDS or argv[0] in others):
        return _dispatch([], [argv[0], "--help"])
    print("hpcc: Docker and OCI images on HPC clusters, without Docker and without root\n")
    print("Usage: hpcc [--quiet|--verbose|--debug] COMMAND [OPTIONS] …\n\nCommands:")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<11} {summary}")
    if others:
        print(f"\nOf integrations: {', '.join(others)}")
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
    """One message to stderr, in the form that Apptainer's users know; at a terminal what is longer than a line is
    indented, so that the words in front can be seen.
    """
    head = f"{level + ':':<9}"
    if len(text) > 71 and "\n" not in text and sys.stderr.isatty():
        from hpcc.cli.arguments import wrapped

        sys.stderr.write("\n".join(wrapped(text, head, " " * 9)) + "\n")
    else:
        sys.stderr.write(f"{head}{text}\n")
