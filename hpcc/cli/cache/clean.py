"""hpcc cache clean: one's own objects go."""

import os
import sys
import time

from hpcc.cli import say
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import TYPE_OPTION, chosen_days, chosen_kinds, is_named, own_tiers, size_text
from hpcc.errors import UsageError

COMMAND = Command(
    "cache clean [OPTIONS]",
    "Remove your own objects from the cache. Runs that use them go on.",
    (
        Option(("-n", "--dry-run"), "only say what would be removed"),
        Option(("-f", "--force"), "do not ask"),
        Option(("-D", "--days"), "only what was not used for so many days", "N"),
        TYPE_OPTION,
        Option(("-N", "--name"), "only this image: docker://NAME, or a name that `cache list -v` shows", "NAME"),
    ),
    "hpcc cache clean --dry-run --days 30",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.contents import contents, remove

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"clean takes no argument: {arguments.positional[0]}")
    kinds = chosen_kinds(arguments)
    before = time.time() - chosen_days(arguments) * 86400
    chosen = [
        (tier, item)
        for tier in own_tiers()
        for item in contents(tier)
        if item.kind in kinds and item.owner == os.getuid() and item.used <= before and is_named(item, arguments.name)
    ]
    if not chosen:
        print("There is nothing of yours to remove.")
        return 0
    total = size_text(sum(item.size for _, item in chosen))
    if arguments.dry_run or not arguments.force:
        for _, item in chosen:
            verb = "Would remove" if arguments.dry_run else "To be removed:"
            print(f"{verb} {item.kind} {item.name} ({size_text(item.size)})")
    if arguments.dry_run:
        print(f"{len(chosen)} object(s), {total}. Nothing was removed.")
        return 0
    if not arguments.force:
        print("(`--dry-run` only shows this list.)")
        if not sys.stdin.isatty():
            raise UsageError("clean asks before it removes, and stdin is no terminal", hint="Add --force.")
        if input(f"Remove {len(chosen)} object(s), {total}? [N/y] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    for tier in own_tiers():
        remove(tier, [item for other, item in chosen if other.root == tier.root])
    say("INFO", f"Removed {len(chosen)} object(s), {total}")
    return 0
