"""Which account a user has for a registry. The first of these that has one:

{HPCC,APPTAINER,SINGULARITY}_DOCKER_USERNAME and _PASSWORD     any registry
DOCKER_USERNAME and DOCKER_PASSWORD                            Docker Hub only
$REGISTRY_AUTH_FILE; $DOCKER_CONFIG/config.json or ~/.docker/config.json
                                                               "auths": containers-auth.json(5), Docker's config.json
"""

import base64
import binascii
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

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and (self.username, self.password) == (other.username, other.password)

    def __hash__(self) -> int:
        return hash((self.username, self.password))


def find_credentials(host: str, environ: Mapping[str, str], home: str) -> Credentials | None:
    """The account for the registry `host`, or None. SettingsError for a file that does not parse."""
    prefixes = ["HPCC_", "APPTAINER_", "SINGULARITY_"]
    if canonical_registry(host) == DOCKER_HUB:
        prefixes.append("")
    for prefix in prefixes:
        username = environ.get(f"{prefix}DOCKER_USERNAME")
        password = environ.get(f"{prefix}DOCKER_PASSWORD")
        if username and password:
            return Credentials(username, password)
    for path in _files(environ, home):
        found = _from_file(path, canonical_registry(host))
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str], home: str) -> list[str]:
    config = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker") if home else environ.get("DOCKER_CONFIG")
    files = [environ.get("REGISTRY_AUTH_FILE"), os.path.join(config, "config.json") if config else None]
    return [path for path in files if path]


def _from_file(path: str, host: str) -> Credentials | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE)
    except OSError:
        return None
    try:
        auths = json.loads(data).get("auths") or {}
        entries = {_host_of(key): value for key, value in auths.items() if isinstance(value, dict)}
    except (ValueError, AttributeError) as error:
        raise SettingsError(f"{path} does not parse: {error}", hint="Log in again, or remove the file.") from None
    entry = auths.get(_HUB_KEY) if host == DOCKER_HUB else None
    return _decode(entry or entries.get(host), path)


def _host_of(key: str) -> str:
    return canonical_registry(key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0])


def _decode(entry: Any, path: str) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    text = entry.get("auth")
    if not isinstance(text, str) or not text:
        return None
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise SettingsError(f"{path}: an `auth` that is no base64", hint="Log in again.") from None
    return Credentials(username, password.rstrip("\0")) if colon else None
