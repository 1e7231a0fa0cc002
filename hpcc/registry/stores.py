"""Files of registry logins in Docker's format: where they lie, and what is in one. Nothing is written here.

    {"auths": {"https://index.docker.io/v1/": {"auth": base64 of name:password},     Docker Hub, as Docker spells it
               "quay.io/group": {"auth": …, "identitytoken": …}},                   or a part of a registry
     "credHelpers": {"registry.example": "pass"},                                   docker-credential-pass, for one
     "credsStore": "secretservice"}                                                 and for all others

Docker's config.json, and containers-auth.json(5).
"""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from hpcc.errors import SettingsError
from hpcc.oci.reference import DOCKER_HUB, canonical_registry
from hpcc.records import NamedTuple
from hpcc.registry.account import Credentials
from hpcc.registry.credential_helper import TOKEN_USERNAME, Helper, ask_helper

_HUB_KEY = "https://index.docker.io/v1/"
MAX_FILE = 8 << 20


class Entry(NamedTuple):
    """What a store has for a registry or a part of one. `helper` is the program that knows the account, "" for none."""

    scope: str
    username: str
    helper: str


def own_store(environ: Mapping[str, str], home: str) -> str:
    """The file of `hpcc registry login`; "" where there is no place for one."""
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    return os.path.join(config, "hpcc", "docker-config.json") if config else ""


def foreign_stores(environ: Mapping[str, str], home: str) -> list[str]:
    """The files of other programs that are read, in this order, whether they are there or not."""

    def at(variable: str, directory: str, name: str) -> str:
        place = environ.get(variable) or (os.path.join(home, directory) if home else "")
        return os.path.join(place, name) if place else ""

    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # Behind su or sudo it is another user's, which says nothing about us and is closed to us.
    podman = os.path.join(runtime, "containers/auth.json") if runtime and os.access(runtime, os.X_OK) else ""
    files = [
        environ.get("REGISTRY_AUTH_FILE", ""),
        at("DOCKER_CONFIG", ".docker", "config.json"),
        podman,
        at("APPTAINER_CONFIGDIR", ".apptainer", "docker-config.json"),
        at("SINGULARITY_CONFIGDIR", ".singularity", "docker-config.json"),
    ]
    return list(dict.fromkeys(path for path in files if path))


def read_store(path: str) -> dict[str, Any] | None:
    """The file as JSON, its parts of the right types; None where there is none. SettingsError names a broken file."""
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
    if not isinstance(document, dict):
        raise wrong
    kinds = (("auths", dict | None), ("credHelpers", dict | None), ("credsStore", str | None))
    if not all(isinstance(document.get(name), kind) for name, kind in kinds):
        raise wrong
    if not all(isinstance(helper, str) for helper in (document.get("credHelpers") or {}).values()):
        raise wrong
    return document


def find_in_store(path: str, registry: str, repository: str, environ: Mapping[str, str]) -> Credentials | None:
    """The account of a file for a canonical registry, or None: by its helpers, else by the longest scope that fits.

    SettingsError where the file does not parse, or where a helper that it names cannot be asked.
    """
    document = read_store(path)
    if document is None:
        return None
    for name in _helpers(document, registry):
        found = ask_helper(Helper(name, key_of(registry), path), environ)
        if found is not None:
            return found
    auths = document.get("auths") or {}
    entries = {scope_of(key): entry for key, entry in sorted(auths.items())}
    hub_entry = auths.get(_HUB_KEY)
    if hub_entry:  # what docker login writes, before other spellings
        entries[DOCKER_HUB] = hub_entry
    scope = f"{registry}/{repository}".rstrip("/")
    while scope:
        found = decode_entry(entries.get(scope), path)
        if found is not None:
            return found
        scope = scope.rpartition("/")[0]
    return None


def list_store(path: str) -> list[Entry]:
    """What a file could answer for, in alphabetical order and without secrets. No helper is asked.

    SettingsError where the file does not parse.
    """
    document = read_store(path) or {}
    found = {scope_of(key): name for key, name in (document.get("credHelpers") or {}).items() if name}
    entries = {scope: Entry(scope, "", f"docker-credential-{name}") for scope, name in found.items()}
    for key, entry in sorted((document.get("auths") or {}).items()):
        scope = scope_of(key)
        login = decode_entry(entry, path)
        helpers = _helpers(document, scope)
        if scope in entries and (login is None or key != _HUB_KEY):
            continue
        if helpers:  # docker login leaves an empty entry in the file for what the helper has
            entries[scope] = Entry(scope, "", f"docker-credential-{helpers[0]}")
        elif login is not None:
            entries[scope] = Entry(scope, login.username, "")
    return [entries[scope] for scope in sorted(entries)]


def _helpers(document: dict[str, Any], registry: str) -> list[str]:
    """The helpers to ask for a registry. An empty name in credHelpers means, as for Docker, that none is asked."""
    own = {scope_of(key): name for key, name in (document.get("credHelpers") or {}).items()}
    if own.get(registry) == "":
        return []
    return [name for name in (own.get(registry), document.get("credsStore")) if name]


def scope_of(key: str) -> str:
    """An entry's key as registry[/path]; what Docker writes behind https://host/ is no repository."""
    scheme, separator, rest = key.partition("://")
    host, _, path = (rest if separator else scheme).strip("/").partition("/")
    if separator and path in ("v1", "v2"):
        path = ""
    return f"{canonical_registry(host)}/{path}".rstrip("/")


def key_of(scope: str) -> str:
    """registry[/path] as Docker spells it in a file, and as a helper is asked for it."""
    return _HUB_KEY if scope == DOCKER_HUB else scope


def decode_entry(entry: Any, path: str) -> Credentials | None:
    """The account of an entry of "auths"; None where it has none, as {} beside a credential helper."""
    if not isinstance(entry, dict):
        return None
    token = entry.get("identitytoken")
    token = token if isinstance(token, str) else ""
    username, password = entry.get("username"), entry.get("password")
    if username and (password or token):
        return Credentials(str(username), str(password or ""), token)
    text = entry.get("auth")
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        name, colon, secret = data.decode().partition(":")
    except ValueError:  # no base64, or no UTF-8 in it
        raise SettingsError(f"{path}: an `auth` that is no base64", hint="Log in again.") from None
    if token:
        return Credentials(name or TOKEN_USERNAME, secret.rstrip("\0"), token)
    return Credentials(name, secret.rstrip("\0")) if colon else None
