"""Tokens of libraries, as `hpcc registry login` without a registry stores them.

    $XDG_CONFIG_HOME/hpcc/library-tokens     0600; a line each: ENDPOINT TOKEN

A token goes to the library for which it was stored, and to no other that an image's name may lead to. Read on the warm
path of library:// images: nothing is imported here that only a change needs.
"""

from __future__ import annotations

import os

from hpcc.errors import SettingsError, UsageError
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TOKEN = 64 << 10
_MAX_FILE = 1 << 20


def token_file(environ: Mapping[str, str]) -> str:
    """Where they are kept; "" where there is no place for them."""
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    return os.path.join(config, "hpcc", "library-tokens") if config else ""


def read_tokens(path: str) -> dict[str, str]:
    """By endpoint. SettingsError where the file cannot be read, or has other lines."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_FILE).decode("ascii")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError:
        text = "?"
    except OSError as error:
        raise SettingsError(f"cannot read the tokens in {path}: {error.strerror}") from None
    rows = [line.split(" ") for line in text.splitlines() if line]
    if not all(len(row) == 2 and all(row) for row in rows):
        raise SettingsError(
            f"the tokens in {path} do not parse", hint="Remove the file, and `hpcc registry login` again."
        )
    return {row[0]: row[1] for row in rows}


def find_token(environ: Mapping[str, str], endpoint: str) -> str:
    """What is stored for the library; "" for none. SettingsError."""
    path = token_file(environ)
    return read_tokens(path).get(endpoint, "") if path else ""


def store_token(path: str, endpoint: str, token: str) -> None:
    """Atomic, idempotent. UsageError for what cannot be a token; CacheError, LockTimeout, SettingsError."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("a library's token is one word of ASCII characters", hint="Is that the token, and all of it?")
    _change(path, endpoint, token)


def remove_token(path: str, endpoint: str) -> bool:
    """Whether there was one. Atomic, idempotent. CacheError, LockTimeout, SettingsError."""
    if endpoint not in read_tokens(path):
        return False
    _change(path, endpoint, "")
    return True


def _change(path: str, endpoint: str, token: str) -> None:
    from hpcc.registry.logins import changing, replace

    with changing(path, "token") as target:
        tokens = {**read_tokens(target), endpoint: token}
        replace(target, "\n".join(f"{name} {value}" for name, value in tokens.items() if value).encode())
