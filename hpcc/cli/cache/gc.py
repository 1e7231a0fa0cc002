"""hpcc cache gc: remove what the cache can do without, for cron."""

import json
from collections import Counter

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.cache.items import own_tiers, size_text, user_name
from hpcc.cli.terminal import terminal
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from hpcc.cache.collect import Collection
    from hpcc.cache.contents import Item
    from hpcc.cache.gc import Policy
    from hpcc.settings import Settings

COMMAND = Command(
    "cache gc [OPTIONS]",
    "Remove what the cache can do without. Nothing goes that is pinned, has a root or was used within the grace time. "
    "What goes lies in trash/ for the grace time. For the owner of the cache; others clean what is theirs.",
    (
        Option(("-D", "--days"), "images that were not used for so many days go (setting gc_days)", "N"),
        Option(("--max-size",), "down to this size, oldest use first, such as 500GB (setting gc_size)", "SIZE"),
        Option(("--grace",), "days (setting gc_grace: 8); above the longest job, 0 only when none runs", "N"),
        Option(("-n", "--dry-run"), "only say what would be removed"),
        Option(("-j", "--json"), "as JSON"),
        Option(("--private",), "the private cache, too"),
    ),
    "hpcc cache gc --days 90 --max-size 2TB",
)
SHOWN = 5  # objects that may not be removed
_WORDS = {"sif": "container file(s)", "blob": "oci blob file(s)", "pack": "converted layer(s)"}


def main(argv: list[str]) -> int:
    from hpcc.cache.collect import collect
    from hpcc.settings import Settings

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"gc takes no argument: {arguments.positional[0]}")
    settings = _chosen(arguments, Settings.from_environ())
    policy = _policy(settings)
    progress = terminal(arguments)
    reports: dict[str, dict[str, Any]] = {}
    for tier in own_tiers() if arguments.private else own_tiers()[:1]:
        try:
            done = collect(tier, policy, dry_run=arguments.dry_run, progress=progress)
        finally:
            progress.close()
        for item, why in done.refused[:SHOWN]:
            say("WARNING", f"{item.path}, {user_name(item.owner)}'s: {why}")
        if len(done.refused) > SHOWN:
            say("WARNING", f"and so for {len(done.refused) - SHOWN} more: `hpcc cache gc --json` lists them")
        if arguments.json:
            reports[tier.root] = _as_json(done)
        elif not arguments.quiet and not arguments.silent:
            print(f"{tier.root}:")
            for line in describe(done, policy, dry_run=arguments.dry_run):
                print(f"  {line}")
    if arguments.json:
        print(json.dumps(reports, indent=1))
    return 0


def _chosen(arguments: Arguments, settings: "Settings") -> "Settings":
    from hpcc.cli.source import parsed

    options = (("gc_days", "--days", arguments.days), ("gc_size", "--max-size", arguments.max_size),
               ("gc_grace", "--grace", arguments.grace))  # fmt: skip
    chosen = {name: parsed(name, option, text) for name, option, text in options if text is not None}
    return settings.replace(**chosen) if chosen else settings


def _policy(settings: "Settings") -> "Policy":
    from hpcc.cache.gc import Policy

    return Policy(settings.gc_grace * 86400, settings.gc_days * 86400, settings.gc_size)


def describe(done: "Collection", policy: "Policy", *, dry_run: bool) -> list[str]:
    """A few lines for a person, or the mail of cron."""
    would = "would be " if dry_run else ""
    lines = [f"{would}moved to the trash: {_kinds(removal.item for removal in done.removed)}"]
    if done.emptied.files:
        lines.append(f"{would}deleted from the trash: {done.emptied.files} file(s), {size_text(done.emptied.size)}")
    tidied = [f"{each.files} of {kind}" for kind, each in done.tidied.items() if each.files]
    empty = sum(each.directories for each in done.tidied.values())
    tidied += [f"{empty} empty directories"] if empty else []
    if tidied:
        lines.append(f"{would}tidied up: {', '.join(tidied)}")
    lines.append(f"{'would be left' if dry_run else 'left'}: {_kinds(done.left)}")
    sifs = [item for item in done.left if item.kind == "sif"]
    by_user: Counter[str] = Counter()
    for item in sifs:
        for name in {user_name(pin.uid) for pin in done.pins.get(item.key, ())}:
            by_user[name] += item.size
    lines += [f"pinned by {name}: {size_text(size)}" for name, size in by_user.most_common()]
    rooted = [item.size for item in sifs if item.key in done.roots]
    if rooted:
        lines.append(f"kept by roots: {len(rooted)} container file(s), {size_text(sum(rooted))}")
    size = sum(item.size for item in done.left if policy.owner in (None, item.owner))
    if policy.max_size and size > policy.max_size:
        lines.append(f"over the size of {size_text(policy.max_size)}: what is left is pinned, rooted, in use or young")
    count, size = done.trash
    if count:
        lines.append(f"in the trash: {count} file(s), {size_text(size)}, each for {policy.grace / 86400:g} days")
    return lines


def _kinds(items: "Iterable[Item]") -> str:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in items:
        counts[item.kind] += 1
        sizes[item.kind] += item.size
    found = [f"{counts[kind]} {words}, {size_text(sizes[kind])}" for kind, words in _WORDS.items() if counts[kind]]
    return "; ".join(found) or "nothing"


def _as_json(done: "Collection") -> "dict[str, Any]":
    return {
        "removed": [{**removal.item._asdict(), "why": removal.why} for removal in done.removed],
        "refused": [{**item._asdict(), "why": why} for item, why in done.refused],
        "emptied": done.emptied._asdict(),
        "tidied": {kind: each._asdict() for kind, each in done.tidied.items()},
        "left": {"objects": len(done.left), "size": sum(item.size for item in done.left)},
        "pins": {key: [pin._asdict() for pin in pins] for key, pins in done.pins.items()},
        "roots": {key: [root._asdict() for root in roots] for key, roots in done.roots.items()},
        "trash": {"files": done.trash[0], "size": done.trash[1]},
    }
