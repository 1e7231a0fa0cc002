"""hpcc cache clean: one's own objects go."""

import os
import sys
import time

from hpcc.cli import say
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import (
    TYPE_OPTION,
    chosen_days,
    chosen_kinds,
    is_named,
    own_tiers,
    pins_text,
    size_text,
    user_name,
)
from hpcc.errors import PolicyError, UsageError

COMMAND = Command(
    "cache clean [OPTIONS]",
    "Remove your own objects from the cache. Runs that use them go on. What is pinned stays, unless you name it.",
    (
        Option(("-n", "--dry-run"), "only say what would be removed"),
        Option(("-f", "--force"), "do not ask"),
        Option(("-D", "--days"), "only what was not used for so many days", "N"),
        TYPE_OPTION,
        Option(("-N", "--name"), "only this image: docker://NAME, or a name that `cache list -v` shows", "NAME"),
        Option(("--all-users",), "what others made, too; for the owner of the cache"),
    ),
    "hpcc cache clean --dry-run --days 30",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.contents import contents, is_in_charge, owner_of, remove
    from hpcc.cache.pins import read_pins

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"clean takes no argument: {arguments.positional[0]}")
    tiers = own_tiers()
    for tier in tiers if arguments.all_users else ():
        if owner_of(tier) is not None and not is_in_charge(tier):
            raise PolicyError(
                f"{tier.root} is {user_name(owner_of(tier))}'s: only its owner and root remove what others made",
                hint="Without --all-users it removes what is yours.",
            )
    kinds = chosen_kinds(arguments)
    before = time.time() - chosen_days(arguments) * 86400
    chosen, pinned = [], []
    for tier in tiers:
        pins = {} if arguments.name else read_pins(tier)
        for item in contents(tier):
            if item.kind not in kinds or item.used > before or not is_named(tier, item, arguments.name):
                continue
            if item.owner != os.getuid() and not arguments.all_users:
                continue
            if item.kind == "sif" and item.key in pins:
                pinned.append((item, pins[item.key]))
            else:
                chosen.append((tier, item))
    for item, by in pinned:
        say("INFO", f"{item.kind} {item.name[:12]} stays: pinned by {pins_text(by)}")
    if not chosen:
        print("There is nothing to remove." if arguments.all_users else "There is nothing of yours to remove.")
        return 0
    total = size_text(sum(item.size for _, item in chosen))
    if arguments.dry_run or not arguments.force:
        for _, item in chosen:
            verb = "Would remove" if arguments.dry_run else "To be removed:"
            whose = f", {user_name(item.owner)}'s" if item.owner != os.getuid() else ""
            print(f"{verb} {item.kind} {item.name} ({size_text(item.size)}{whose})")
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
    for tier in tiers:
        remove(tier, [item for other, item in chosen if other.root == tier.root])
    say("INFO", f"Removed {len(chosen)} object(s), {total}")
    return 0
