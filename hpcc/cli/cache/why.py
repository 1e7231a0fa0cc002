"""hpcc cache why: what a run of an image would fetch now, and why."""

import json

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal

COMMAND = Command(
    "cache why [OPTIONS] IMAGE",
    "Tell why an image was fetched again, or would be: what the caches have of it, and how old that is.",
    (Option(("-j", "--json"), "as JSON"), *SOURCE_OPTIONS),
    "hpcc cache why docker://python:3.12",
)


def main(argv: list[str]) -> int:
    from hpcc.explain import explain
    from hpcc.lookup import Wanted

    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "why needs one image")
    uri = arguments.positional[0]
    settings = source_settings(arguments, uri)
    wanted = Wanted.parse(uri, settings, arch=chosen_platform(arguments), progress=terminal(arguments))
    found = explain(wanted, settings)
    if arguments.json:
        print(json.dumps({"steps": [step._asdict() for step in found.steps], "verdict": found.verdict}, indent=1))
        return 0
    for step in found.steps:
        print(f"{'yes' if step.good else 'no':<4}{step.what:<10}{step.said}")
    print(f"\n{found.verdict}")
    return 0
