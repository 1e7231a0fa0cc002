"""Questions to a person at a terminal: who they are at a registry."""

import getpass
import sys

from hpcc.errors import UsageError
from hpcc.registry.account import Credentials


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
