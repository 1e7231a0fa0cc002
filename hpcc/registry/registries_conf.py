"""registries.conf: where Podman, Skopeo and their like are told to ask for images. containers-registries.conf(5).

    [[registry]]                        images whose names begin with
    prefix = "docker.io"                  this (by default: the location)
    location = "docker.io"                are here (by default: at the prefix)
    insecure = false                      http and certificates that nobody vouches for are allowed there
    blocked = false                       nobody may pull them
    mirror-by-digest-only = false         mirrors are asked for digests only
    [[registry.mirror]]                   is asked before, in order
    location = "mirror.example:5000/hub"
    insecure = true
    pull-from-mirror = "all"              or digest-only, or tag-only

All other keys are for others: short names mean Docker Hub here, and logins are found by `credentials`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hpcc.errors import InvalidReference, SettingsError
from hpcc.registry.endpoints import Mirror, Rule, parse_location, parse_prefix, version_of, with_mirrors

ADMIN = "/etc/containers"
VENDOR = "/usr/share/containers"
VARIABLE = "CONTAINERS_REGISTRIES_CONF"
_MAN = "See containers-registries.conf(5)."


def rules_of(
    mirrors: Iterable[tuple[str, Sequence[str]]],
    environ: Mapping[str, str],
    home: str,
    *,
    origin: str = "the setting mirrors",
) -> tuple[Rule, ...]:
    """The rules of this host and user: those of registries.conf, and the setting `mirrors`, which comes from `origin`.

    Raises SettingsError, as `load_rules` and `with_mirrors` do.
    """
    return with_mirrors(mirrors, load_rules(environ, home), origin)


def load_rules(environ: Mapping[str, str], home: str, *, etc: str = ADMIN, vendor: str = VENDOR) -> tuple[Rule, ...]:
    """The rules of all registries.conf files that are for this user. containers-config(5), "Load Order".

    $CONTAINERS_REGISTRIES_CONF alone; else the first of the user's, the administrator's (`etc`) and the vendor's
    registries.conf, then all their drop-ins in the order of their file names, of which the user's hides the
    administrator's of the same name. Then $CONTAINERS_REGISTRIES_CONF_OVERRIDE. A registry of a later file replaces the
    one of an earlier file with the same prefix. A file that is missing is none, unless a variable names it.
    SettingsError names the file that cannot be read or does not parse. home may be "".

    Older versions, as Debian 12's, leave out the administrator's drop-ins where the user has a registries.conf, and
    load the user's after all of the administrator's.
    """
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    places = [vendor, etc, os.path.join(config, "containers")] if config else [vendor, etc]
    files: list[tuple[str, bytes]] = []
    if named := environ.get(VARIABLE):
        files += _read([named], must_exist=True)
    else:
        files += islice(_read(os.path.join(place, "registries.conf") for place in reversed(places)), 1)
        files += _read(_drop_ins(places))
    if override := environ.get(f"{VARIABLE}_OVERRIDE"):
        files += _read([override], must_exist=True)
    return tuple({rule.prefix: rule for path, data in files for rule in parse(data, path)}.values())


def parse(text: bytes, origin: str) -> tuple[Rule, ...]:
    """The rules of one file in version 2 of the format; of two registries with one prefix, the first counts.

    Raises SettingsError, which names `origin` and the entry, for what is no TOML, for what does not mean anything, and
    for version 1, which Podman 6 no longer reads either.
    """
    import tomllib

    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{origin}: {error}", hint=_MAN) from None
    old = document.get("registries")
    if isinstance(old, dict) and old:
        raise SettingsError(
            f"{origin} is in version 1 of the format: [registries.{next(iter(old))}]",
            hint=f"Write [[registry]] tables, see containers-registries.conf(5); or set {VARIABLE} to another file.",
        )
    found: dict[str, Rule] = {}
    for number, table in enumerate(_tables(document, "registry", origin), 1):
        rule = _rule(table, origin, f"{origin}: registry {number}")
        found.setdefault(rule.prefix, rule)
    return tuple(found.values())


def _rule(table: dict[str, Any], origin: str, entry: str) -> Rule:
    location, written = _text(table, "location", entry), _text(table, "prefix", entry)
    entry = f"{entry} ({written or location})"
    if not (location or written):
        raise SettingsError(f"{entry}: neither a prefix nor a location", hint=_MAN)
    if _text(table, "pull-from-mirror", entry):
        raise SettingsError(
            f"{entry}: pull-from-mirror stands at the registry", hint="It belongs to a [[registry.mirror]]."
        )
    try:
        prefix = parse_prefix(written or location)
        if not location and not written.startswith("*."):
            location = written
        version = version_of(prefix)
        location = parse_location(location, version=version) if location else ""
        by_digest_only = _flag(table, "mirror-by-digest-only", entry)
        mirrors = tuple(
            _mirror(mirror, f"{entry}: mirror {number}", version, by_digest_only)
            for number, mirror in enumerate(_tables(table, "mirror", entry), 1)
        )
    except InvalidReference as error:
        raise SettingsError(f"{entry}: {error.message}", hint=error.hint or _MAN) from None
    return Rule(prefix, location, _flag(table, "insecure", entry), _flag(table, "blocked", entry), mirrors, origin)


def _mirror(table: dict[str, Any], entry: str, version: str, by_digest_only: bool) -> Mirror:
    location = _text(table, "location", entry)
    if not location:
        raise SettingsError(f"{entry}: no location", hint=_MAN)
    use = _text(table, "pull-from-mirror", entry)
    if use not in ("", "all", "digest-only", "tag-only"):
        raise SettingsError(
            f"{entry}: pull-from-mirror is {use[:100]!r}", hint='It is "all", "digest-only" or "tag-only".'
        )
    if use and by_digest_only:
        raise SettingsError(
            f"{entry}: pull-from-mirror beside mirror-by-digest-only", hint="Keep one of the two: the first says more."
        )
    return Mirror(
        parse_location(location, version=version),
        _flag(table, "insecure", entry),
        for_tags=not by_digest_only and use != "digest-only",
        for_digests=use != "tag-only",
    )


def _tables(table: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise SettingsError(f"{where}: {key} must be an array of tables", hint=_MAN)
    return found


def _text(table: Mapping[str, Any], key: str, entry: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise SettingsError(f"{entry}: {key} must be a string", hint=_MAN)
    return value


def _flag(table: Mapping[str, Any], key: str, entry: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{entry}: {key} must be true or false", hint=_MAN)
    return value


def _drop_ins(places: Sequence[str]) -> list[str]:
    """The paths of all drop-ins, in order; `places` are the vendor's, the administrator's and the user's directory."""
    uid = os.getuid()
    kind = "rootless" if uid else "rootful"
    directories: list[str] = []
    for place in places:
        directories += [os.path.join(place, "registries.conf.d"), os.path.join(place, f"registries.{kind}.conf.d")]
        if uid:
            directories.append(os.path.join(directories[-1], str(uid)))
    by_name: dict[str, str] = {}
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                by_name |= {
                    entry.name: entry.path for entry in entries if entry.name.endswith(".conf") and not entry.is_dir()
                }
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unreadable(directory, error) from None
    return [by_name[name] for name in sorted(by_name)]


def _read(paths: Iterable[str], *, must_exist: bool = False) -> Iterator[tuple[str, bytes]]:
    """Each file that is there: its path, and what it holds."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError) as error:
            if must_exist:  # else a typing error would lift a block
                raise _unreadable(path, error) from None
            continue
        except OSError as error:
            raise _unreadable(path, error) from None
        yield path, data


def _unreadable(path: str, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot read {path}: {error.strerror}", hint=f"Make it readable for you, or set {VARIABLE} to another file."
    )
