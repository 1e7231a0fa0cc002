"""Passphrases of keys: asked where somebody can answer unseen, else the first line of stdin; never an argument."""

import getpass
import sys

from hpcc.errors import UsageError

MAX = 64 << 10


def read_passphrase(prompt: str, *, twice: bool = False) -> str:
    """What is given, "" for nothing. UsageError where two answers differ, or stdin has no text."""
    if sys.stdin is None:
        return ""
    if not sys.stdin.isatty():
        try:
            return sys.stdin.buffer.readline(MAX).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsageError("the passphrase on stdin is no UTF-8") from None
    try:
        answer = getpass.getpass(prompt)
        if twice and answer != getpass.getpass("Retype your passphrase : "):
            raise UsageError("the two passphrases differ", hint="Nothing was changed; try again.")
        return answer
    except EOFError:
        return ""


def refuse_on_argv(argv: list[str], short: str = "") -> None:
    """UsageError for a password among the arguments, as Apptainer takes it."""
    for word in argv:
        if word.partition("=")[0] == "--password" or (short and word.startswith(short) and word[:2] != "--"):
            raise UsageError(
                "a passphrase on the command line can be read by everybody on this host",
                hint="hpcc asks for it, or reads the first line of stdin. Choose another one now.",
            )
