"""hpcc config: all settings and where each comes from."""

import json
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc.settings import KEYS, Settings
from hpcc.siteprofiles import Profile

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
        print(json.dumps(_plain(key, settings)) if arguments.json else _show(getattr(settings, key)))
        return 0
    if arguments.json:
        rows = {key: {"value": _plain(key, settings), "origin": settings.origins[key]} for key in KEYS}
        print(json.dumps(rows, indent=1))
        return 0
    for key, entry in KEYS.items():
        print(f"{key} = {_show(getattr(settings, key))}\n    {entry.help}\n    from: {settings.origins[key]}")
    return 0


def _plain(key: str, settings: Settings) -> Any:
    """A setting as JSON has it; mirrors as the object that they are in config.toml."""
    value = getattr(settings, key)
    if key == "mpi_profiles":
        return {profile.name: profile.as_table() for profile in value}
    return dict(value) if key == "mirrors" else value


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and any(isinstance(entry, Profile) for entry in value):
        return ", ".join(f"{profile.name} = {json.dumps(profile.as_table())}" for profile in value)
    if value and isinstance(value, tuple) and isinstance(value[0], tuple):  # mirrors, as HPCC_MIRRORS has them
        return ",".join(f"{prefix}={mirror}" for prefix, mirrors in value for mirror in mirrors or ("",))
    if isinstance(value, tuple):
        return ":".join(value) if value else "(none)"
    return f"{value:g}" if isinstance(value, float) else str(value) or "(none)"
