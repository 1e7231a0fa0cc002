"""hpcc cache verify: is everything in the cache what it should be."""

import json
import os
from typing import TYPE_CHECKING

from hpcc.cli import say
from hpcc.cli.arguments import Command, Option, parse
from hpcc.cli.cache.items import own_tiers, size_text
from hpcc.cli.terminal import terminal

if TYPE_CHECKING:
    from hpcc.checking import Report

COMMAND = Command(
    "cache verify [OPTIONS] [IMAGE…]",
    "Check everything in the cache, or what belongs to the images: hash each blob, make packs and images again from "
    "what they were made from, and compare. Reads all, and takes as long as pulling it all from the cache. Ends with 1 "
    "when something was found, repaired or not.",
    (
        Option(("--repair",), "move what is damaged to the trash, where it is yours or the cache is"),
        Option(("-j", "--json"), "as JSON"),
    ),
    "hpcc cache verify --repair docker://python:3.12",
)


def main(argv: list[str]) -> int:
    from hpcc.checking import check_cache, mend_all, select
    from hpcc.lookup import Wanted
    from hpcc.settings import Settings

    arguments = parse(COMMAND, argv)
    settings, progress = Settings.from_environ(), terminal(arguments)
    images = [Wanted.parse(uri, settings, progress=progress) for uri in arguments.positional]
    selections = tuple(select(wanted, settings) for wanted in images)
    reports = [(tier, check_cache(tier, settings, progress, selections)) for tier in own_tiers()]
    left = {
        report.root: mend_all(tier, report.findings) if arguments.repair else list(report.findings)
        for tier, report in reports
    }
    found = [(report, finding) for _, report in reports for finding in report.findings]
    if arguments.json:
        rows = [
            {**finding._asdict(), "cache": report.root, "repaired": finding not in left[report.root]}
            for report, finding in found
        ]
        caches = [{"cache": each.root, "objects": each.objects, "bytes": each.size} for _, each in reports]
        print(json.dumps({"checked": caches, "findings": rows}, indent=1))
        return int(bool(found))
    for report, finding in found:
        print(f"{finding.kind:<6}{os.path.join(report.root, finding.path)}")
        print(f"      {finding.said}; it belongs to {_user(finding.owner)}")
    if arguments.repair:
        stay = sum(map(len, left.values()))
        print(f"Repaired: {len(found) - stay} of {len(found)}." if found else "", end="\n" if found else "")
        if stay:
            say("HINT", "What belongs to others, they repair, or the owner of the cache; what cannot be read stays.")
    elif found:
        say("HINT", "`hpcc cache verify --repair` takes it out of the way; what is needed is made anew then.")
    if found or not (arguments.quiet or arguments.silent):
        _sum_up([report for _, report in reports], len(found))
    return int(bool(found))


def _sum_up(reports: "list[Report]", found: int) -> None:
    objects, size = sum(each.objects for each in reports), sum(each.size for each in reports)
    print(f"Checked {objects} object(s), {size_text(size)}: {f'{found} found' if found else 'all good'}.")


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
