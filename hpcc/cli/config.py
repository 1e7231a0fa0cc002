"""hpcc config: all settings and where each comes from."""

import json
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc.runtime.sitebinds import site_binds
from hpcc.settings import KEYS, Settings
from hpcc.siteprofiles import Profile
from hpcc.siterules import BindRule

COMMAND = Command(
    "config [--json] [NAME]",
    "Show all settings, or one: its value, and where that comes from.",
    (Option(("-j", "--json"), "as JSON"),),
    "hpcc config\nhpcc config cache_dir",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) > 1:
        raise usage_error(COMMAND, "config shows all settings or one")
    settings = Settings.from_environ()
    if arguments.positional:
        key = arguments.positional[0]
        if key not in KEYS:
            raise UsageError(f"there is no setting {key!r}", hint="`hpcc config` lists all.")
        print(json.dumps(_plain(key, settings)) if arguments.json else shown(key, settings))
        _show_left_out(key, settings, arguments.json)
        return 0
    if arguments.json:
        rows = {key: {"value": _plain(key, settings), "origin": settings.origins[key]} for key in KEYS}
        print(json.dumps(rows, indent=1))
        return 0
    for key, entry in KEYS.items():
        print(f"{key} = {shown(key, settings)}\n    {entry.help}\n    from: {settings.origins[key]}")
        _show_left_out(key, settings, False)
    return 0


def _show_left_out(key: str, settings: Settings, quiet: bool) -> None:
    """Of bind_paths: what is not for this node, and why."""
    for rule, why in site_binds(settings).left_out if key == "bind_paths" and not quiet else ():
        print(f"    not on this node: {_entry(rule)}: {why}")


def _entry(entry: str | BindRule) -> str:
    """An entry of bind_paths as it may stand in a file."""
    if isinstance(entry, str):
        return entry
    return "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in _as_table(entry).items()) + "}"


def _as_table(rule: BindRule) -> dict[str, Any]:
    given = {name: value for name, value in rule._asdict().items() if value not in ((), "")}
    if rule.gpu in ("any", "none"):
        given["gpu"] = rule.gpu == "any"
    return {name: value[0] if isinstance(value, tuple) and len(value) == 1 else value for name, value in given.items()}


def _plain(key: str, settings: Settings) -> Any:
    """A setting as JSON has it; mirrors as the object that they are in config.toml."""
    value = getattr(settings, key)
    if key == "mpi_profiles":
        return {profile.name: profile.as_table() for profile in value}
    if key == "bind_paths":
        return [_as_table(entry) if isinstance(entry, BindRule) else entry for entry in value]
    return dict(value) if key == "mirrors" else value


def shown(key: str, settings: Settings) -> str:
    """The value as text."""
    return _show(getattr(settings, key))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and any(isinstance(entry, Profile) for entry in value):
        return ", ".join(f"{profile.name} = {json.dumps(profile.as_table())}" for profile in value)
    if isinstance(value, tuple) and any(isinstance(entry, BindRule) for entry in value):
        return ", ".join(map(_entry, value))
    if value and isinstance(value, tuple) and isinstance(value[0], tuple):  # mirrors, as HPCC_MIRRORS has them
        return ",".join(f"{prefix}={mirror}" for prefix, mirrors in value for mirror in mirrors or ("",))
    if isinstance(value, tuple):
        return ":".join(value) if value else "(none)"
    return f"{value:g}" if isinstance(value, float) else str(value) or "(none)"
