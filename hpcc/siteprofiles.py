"""Profiles of --mpi, as a site writes them: the host's MPI and fabric libraries in place of an image's. Pure.

[mpi_profiles.cray]
libraries = ["/opt/cray/pe/lib64/libmpi.so.12", "/opt/cray/libfabric/1.15/lib64", "/usr/lib64/libcxi.so*"]
bind = ["/opt/cray:/opt/cray:ro", "/var/spool/slurmd"]
devices = ["/dev/cxi*", "/dev/xpmem"]
prepend = ["/opt/cray/lib64"]
env = ["MPICH_*", "FI_*"]
set = {MPICH_OFI_STARTUP_CONNECT = "1"}

libraries  files, patterns, and directories with all their lib*.so*; each goes by all names that it has on this host
bind       paths as --bind takes them
devices    device files, or directories of them, for a contained /dev; those that are not there are left out
prepend    directories in the container that its loader searches first, after the libraries
env        patterns of the caller's variables that reach a clean environment, too
set        variables
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Profile(NamedTuple):
    """One profile; the fields as above."""

    name: str
    libraries: tuple[str, ...] = ()
    bind: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    prepend: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()

    def as_table(self) -> dict[str, Any]:
        """As it may stand in a file."""
        given = {key: list(value) for key, value in self._asdict().items() if value and key not in ("name", "set")}
        return {**given, **({"set": dict(self.set)} if self.set else {})}


def parse_profiles(value: object) -> tuple[Profile, ...]:
    """The tables of TOML. ValueError says which profile and key is wrong, and what it should hold."""
    if not isinstance(value, dict):
        raise ValueError("""tables in a file, as [mpi_profiles.NAME] with libraries = ["/path/lib.so"]""")
    return tuple(_parse(str(name), table) for name, table in value.items())


def _parse(name: str, table: Mapping[str, Any]) -> Profile:
    if not isinstance(table, dict):
        raise ValueError(f"{name}: a table with {', '.join(Profile._fields[1:])}")
    if unknown := sorted(set(table) - set(Profile._fields[1:])):
        raise ValueError(f"{name}: no key {unknown[0]!r}, but {', '.join(Profile._fields[1:])}")
    found = {key: _texts(name, key, table[key]) for key in table if key != "set"}
    for key in ("libraries", "devices", "prepend"):
        if not all(path.startswith("/") for path in found.get(key, ())):
            raise ValueError(f"{name}: {key}: absolute paths")
    pairs = table.get("set", {})
    if not isinstance(pairs, dict) or not all(isinstance(text, str) and key for key, text in pairs.items()):
        raise ValueError(f"{name}: set: a table of strings")
    if not (found.get("libraries") or found.get("bind")):
        raise ValueError(f"{name}: libraries, or a bind")
    return Profile(name, **found, set=tuple(pairs.items()))


def _texts(name: str, key: str, value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item and "\0" not in item for item in items):
        raise ValueError(f"{name}: {key}: a string or a list of strings")
    return tuple(items)
