"""Which account a user has for a registry. The first of these that has one:

{HPCC,APPTAINER,SINGULARITY}_DOCKER_USERNAME and _PASSWORD     any registry
DOCKER_USERNAME and DOCKER_PASSWORD                            Docker Hub only
$REGISTRY_AUTH_FILE; $DOCKER_CONFIG/config.json or ~/.docker/config.json
                                                               "auths": containers-auth.json(5), Docker's config.json
"""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from hpcc.errors import SettingsError
from hpcc.oci.reference import DOCKER_HUB, canonical_registry

_HUB_KEY = "https://index.docker.io/v1/"
MAX_FILE = 8 << 20


class Credentials:
    """A user name and a password, or token. Shows the password to nobody who does not ask for it."""

    __slots__ = ("password", "username")

    def __init__(self, username: str, password: str) -> None:
        self.username, self.password = username, password

    @property
    def basic(self) -> str:
        """The value of an Authorization header behind the word Basic (RFC 7617, in UTF-8)."""
        return base64.b64encode(f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")).decode()

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and (self.username, self.password) == (other.username, other.password)

    def __hash__(self) -> int:
        return hash((self.username, self.password))


def find_credentials(host: str, environ: Mapping[str, str], home: str, repository: str = "") -> Credentials | None:
    """The account for `repository` at the registry `host`, or None. SettingsError for a file that does not parse.

    Entries of a store may be for a part of a registry (`quay.io/group`); the longest that fits wins.
    """
    registry = canonical_registry(host)
    prefixes = ["HPCC_", "APPTAINER_", "SINGULARITY_"]
    if registry == DOCKER_HUB:
        prefixes.append("")
    for prefix in prefixes:
        username = environ.get(f"{prefix}DOCKER_USERNAME")
        password = environ.get(f"{prefix}DOCKER_PASSWORD")
        if username and password:
            return Credentials(username, password)
    for path in _files(environ, home):
        found = _from_file(path, registry, repository)
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str], home: str) -> list[str]:
    directory = environ.get("DOCKER_CONFIG") or (os.path.join(home, ".docker") if home else "")
    files = [environ.get("REGISTRY_AUTH_FILE", ""), os.path.join(directory, "config.json") if directory else ""]
    return [path for path in files if path]


def _from_file(path: str, registry: str, repository: str) -> Credentials | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(
            f"cannot read the registry logins in {path}: {error.strerror}",
            hint="Make it readable for you, or set DOCKER_CONFIG to another directory.",
        ) from None
    wrong = SettingsError(f"the registry logins in {path} do not parse", hint="Log in again, or remove the file.")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise wrong from None
    auths = document.get("auths") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(auths, dict | None):
        raise wrong
    entries = {_scope(key): entry for key, entry in sorted((auths or {}).items())}
    hub_entry = (auths or {}).get(_HUB_KEY)
    if hub_entry:  # what docker login writes, before other spellings
        entries[DOCKER_HUB] = hub_entry
    scope = f"{registry}/{repository}".rstrip("/")
    while scope:
        found = _decode(entries.get(scope), path)
        if found is not None:
            return found
        scope = scope.rpartition("/")[0]
    return None


def _scope(key: str) -> str:
    """An entry's key as registry[/path]; what Docker writes behind https://host/ is no repository."""
    scheme, separator, rest = key.partition("://")
    host, _, path = (rest if separator else scheme).strip("/").partition("/")
    if separator and path in ("v1", "v2"):
        path = ""
    return f"{canonical_registry(host)}/{path}".rstrip("/")


def _decode(entry: Any, path: str) -> Credentials | None:
    """The account of an entry; None where it has none, as {} beside a credential helper."""
    if not isinstance(entry, dict):
        return None
    username, password = entry.get("username"), entry.get("password")
    if username and password:
        return Credentials(str(username), str(password))
    text = entry.get("auth")
    if not isinstance(text, str) or not text:
        return None
    try:
        name, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except ValueError:  # no base64, or no UTF-8 in it
        raise SettingsError(f"{path}: an `auth` that is no base64", hint="Log in again.") from None
    return Credentials(name, secret.rstrip("\0")) if colon else None
