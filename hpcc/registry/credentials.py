"""Which account a user has for a registry. The first of these that has one:

{HPCC,APPTAINER,SINGULARITY}_DOCKER_USERNAME and _PASSWORD     any registry
DOCKER_USERNAME and DOCKER_PASSWORD                            Docker Hub only
$XDG_CONFIG_HOME/hpcc/docker-config.json                       `hpcc registry login`
$REGISTRY_AUTH_FILE; $DOCKER_CONFIG/config.json or ~/.docker/config.json; $XDG_RUNTIME_DIR/containers/auth.json;
~/.apptainer/docker-config.json; ~/.singularity/docker-config.json

In each file: its credential helper for that registry, its helper for all, what it holds itself (hpcc.registry.stores).
"""

from collections.abc import Mapping

from hpcc.errors import SettingsError
from hpcc.oci.reference import DOCKER_HUB, canonical_registry
from hpcc.records import NamedTuple
from hpcc.registry.account import Credentials
from hpcc.registry.stores import find_in_store, foreign_stores, list_store, own_store

__all__ = ["ANY", "Credentials", "Variables", "find_credentials", "find_variables", "may_find"]

ANY = "*"


class Variables(NamedTuple):
    """An account that the environment names, in the variable `name` and the one of the password beside it."""

    name: str
    registry: str  # ANY for each
    credentials: Credentials


def find_credentials(
    host: str, environ: Mapping[str, str], home: str, repository: str = "", *, variables: bool = True
) -> Credentials | None:
    """The account for `repository` at the registry `host`, or None.

    variables=False leaves the environment's own accounts out: those are for whom the user names, never for a mirror
    that a settings file put before it. Entries of a file may be for a part of a registry (`quay.io/group`); the
    longest that fits wins. SettingsError for a file that does not parse, or a helper that does not do its work; files
    behind the one that answers are not looked at.
    """
    registry = canonical_registry(host)
    for found in find_variables(environ) if variables else ():
        if found.registry in (ANY, registry):
            return found.credentials
    for path in filter(None, (own_store(environ, home), *foreign_stores(environ, home))):
        login = find_in_store(path, registry, repository, environ)
        if login is not None:
            return login
    return None


def may_find(host: str, environ: Mapping[str, str], home: str, repository: str = "", *, variables: bool = True) -> bool:
    """Whether `find_credentials` is likely to find something: no helper is asked, and a broken file counts."""
    registry = canonical_registry(host)
    if variables and any(found.registry in (ANY, registry) for found in find_variables(environ)):
        return True
    name = f"{registry}/{repository}"
    try:
        stores = [list_store(path) for path in (own_store(environ, home), *foreign_stores(environ, home)) if path]
    except SettingsError:
        return True
    return any(f"{name}/".startswith(f"{entry.scope}/") for store in stores for entry in store)


def find_variables(environ: Mapping[str, str]) -> list[Variables]:
    """The accounts in the environment, in the order in which they count. Half a pair is none."""
    found = []
    for prefix, registry in (("HPCC_", ANY), ("APPTAINER_", ANY), ("SINGULARITY_", ANY), ("", DOCKER_HUB)):
        name = f"{prefix}DOCKER_USERNAME"
        username, password = environ.get(name), environ.get(f"{prefix}DOCKER_PASSWORD")
        if username and password:
            found.append(Variables(name, registry, Credentials(username, password)))
    return found
