"""hpcc config: all settings and where each comes from."""

import json
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc.settings import KEYS, Settings

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
        print(json.dumps(getattr(settings, key)) if arguments.json else _show(getattr(settings, key)))
        return 0
    if arguments.json:
        rows = {key: {"value": getattr(settings, key), "origin": settings.origins[key]} for key in KEYS}
        print(json.dumps(rows, indent=1))
        return 0
    for key, entry in KEYS.items():
        print(f"{key} = {_show(getattr(settings, key))}\n    {entry.help}\n    from: {settings.origins[key]}")
    return 0


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ":".join(value) if value else "(none)"
    return f"{value:g}" if isinstance(value, float) else str(value) or "(none)"
