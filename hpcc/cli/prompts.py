"""Questions to a person at a terminal: who they are at a registry, and whether they mean it."""

import getpass
import sys

from hpcc.errors import UsageError
from hpcc.registry.account import Credentials

MAX_PASSWORD = 64 << 10  # bytes; the keys of Google's service accounts have 2.4 KB


def ask_login(registry: str, username: str = "") -> Credentials:
    """Ask for the user name, unless there is one, and for the password, which nobody sees.

    UsageError where stdin is no terminal, or no answer comes.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            f"hpcc would ask for the account at {registry}, and stdin is no terminal",
            hint=f"hpcc registry login --username NAME --password-stdin {registry} < FILE; "
            "or HPCC_DOCKER_USERNAME and HPCC_DOCKER_PASSWORD.",
        )
    if not username:
        sys.stderr.write("Enter Docker Username: ")
        sys.stderr.flush()
        username = sys.stdin.readline().strip()
    try:
        password = getpass.getpass("Enter Docker Password: ") if username else ""
    except EOFError:
        password = ""
    if not password:
        what = "password" if username else "user name"
        raise UsageError(f"no {what} for {registry} was given", hint="Nothing was changed; try again.")
    return Credentials(username, password)


def ask_token(endpoint: str) -> str:
    """Ask for a library's token, which nobody sees. UsageError where stdin is no terminal, or no answer comes."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            f"hpcc would ask for the token of {endpoint}, and stdin is no terminal",
            hint="hpcc registry login --tokenfile FILE, or --password-stdin < FILE. For a registry, name it.",
        )
    sys.stderr.write(f"The token of {endpoint}; its web pages make one. For a registry, name it.\n")
    try:
        token = getpass.getpass("Enter token: ").strip()
    except EOFError:
        token = ""
    if not token:
        raise UsageError(f"no token of {endpoint} was given", hint="Nothing was changed; try again.")
    return token


def is_confirmed(question: str, otherwise: str) -> bool:
    """Whether they mean it; no is the default. UsageError, with the hint, where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"hpcc would ask: {question}, and stdin is no terminal", hint=otherwise)
    sys.stderr.write(f"{question} [N/y] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def read_password() -> str:
    """All of stdin but its last line end. UsageError."""
    data = sys.stdin.buffer.read(MAX_PASSWORD + 1)
    if len(data) > MAX_PASSWORD:
        raise UsageError(
            f"stdin has more than {MAX_PASSWORD >> 10} KiB", hint="Is that the password, and nothing else?"
        )
    try:
        password = data.decode().removesuffix("\n").removesuffix("\r")  # what is in the middle belongs to it
    except UnicodeDecodeError:
        raise UsageError("the password on stdin is no UTF-8", hint="Is that the password, and nothing else?") from None
    if not password:
        raise UsageError("the password on stdin is empty", hint='printf %s "$TOKEN" | hpcc registry login …')
    return password
