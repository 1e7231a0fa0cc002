"""hpcc cache clean: one's own objects go."""

import os
import sys
import time
from typing import TYPE_CHECKING

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.cache.items import (
    TYPE_OPTION,
    chosen_days,
    chosen_kinds,
    find_key,
    is_named,
    own_tiers,
    pins_text,
    size_text,
    user_name,
)
from hpcc.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from hpcc.cache.contents import Item
    from hpcc.cache.layout import Cache

COMMAND = Command(
    "cache clean [OPTIONS]",
    "Remove your own objects from the cache. What is pinned or has a root stays unless you name it; and with each "
    "image that stays, what finds it without a registry. Runs on this host that use one go on; where other nodes run "
    "images from it over NFS, `cache gc` is kinder, which waits.",
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
    from hpcc.cache.contents import is_in_charge, owner_of, remove

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
    chosen = [(tier, item) for tier in tiers for item in (_named if arguments.name else _all)(tier, arguments)]
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
        if _asked(f"Remove {len(chosen)} object(s), {total}? [N/y] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    for tier in tiers:
        remove(tier, [item for other, item in chosen if other.root == tier.root])
    inform(arguments, f"Removed {len(chosen)} object(s), {total}")
    return 0


def _named(tier: "Cache", arguments: Arguments) -> "list[Item]":
    """What --name names in this cache, pinned or not."""
    from hpcc.cache.contents import contents

    name = arguments.name
    if name.startswith("docker://"):
        at, key = find_key(name)
        named = [item for item in contents(tier) if item.kind == "sif" and item.key == key and at.root == tier.root]
    else:
        named = [item for item in contents(tier) if is_named(item, name)]
    return _allowed(named, arguments)


def _all(tier: "Cache", arguments: Arguments) -> "list[Item]":
    """All but what is pinned or has a root, which is said, and the documents of the images that stay."""
    from hpcc.cache.contents import contents
    from hpcc.cache.needs import base_name, read_needs
    from hpcc.cache.pins import read_pins
    from hpcc.cache.roots import rooted_keys

    items, pins, roots = contents(tier), read_pins(tier), rooted_keys(tier)
    going = []
    for item in _allowed(items, arguments):
        if item.kind == "sif" and item.key in pins:
            inform(arguments, f"sif {item.name[:12]} stays: pinned by {pins_text(pins[item.key])}")
        elif item.kind == "sif" and item.key in roots:
            inform(arguments, f"sif {item.name[:12]} stays: {roots[item.key][0].path} is it (`hpcc cache roots`)")
        else:
            going.append(item)
    paths = {item.path for item in going}
    staying = {item.key for item in items if item.kind == "sif" and item.path not in paths}
    needed = {name for key, needs in read_needs(tier, items).items() if key in staying for name in needs.documents}
    return [item for item in going if item.kind == "sif" or base_name(item) not in needed]


def _allowed(items: "list[Item]", arguments: Arguments) -> "list[Item]":
    """Those whose owner, kind and last use are as was asked for."""
    before, kinds, me = time.time() - chosen_days(arguments) * 86400, chosen_kinds(arguments), os.getuid()
    ours = [item for item in items if item.owner == me or arguments.all_users]
    return [item for item in ours if item.kind in kinds and item.used <= before]


def _asked(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # ^D
        print()
        return ""
