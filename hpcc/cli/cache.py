"""hpcc cache list, clean, why."""

import json
import os
import sys
import time
from textwrap import wrap
from typing import TYPE_CHECKING

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import HpccError, UsageError
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from hpcc.cache.contents import Item
    from hpcc.cache.layout import Cache

_SUBCOMMANDS = "list, clean, why"

LIST = Command(
    "cache list [OPTIONS]",
    "Show how much the cache holds.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("-T", "--type"), "only these: sif, blob, pack, all; several by commas", "KIND"),
    ),
    "hpcc cache list -v",
)
CLEAN = Command(
    "cache clean [OPTIONS]",
    "Remove your own objects from the cache. Runs that use them go on.",
    (
        Option(("-n", "--dry-run"), "only say what would be removed"),
        Option(("-f", "--force"), "do not ask"),
        Option(("-D", "--days"), "only what was not used for so many days", "N"),
        Option(("-T", "--type"), "only these: sif, blob, pack, all; several by commas", "KIND"),
        Option(("-N", "--name"), "only this image: docker://NAME, or a name that `cache list -v` shows", "NAME"),
    ),
    "hpcc cache clean --dry-run --days 30",
)
WHY = Command(
    "cache why [OPTIONS] IMAGE",
    "Tell why an image was fetched again, or would be: what the caches have of it, and how old that is.",
    (Option(("-j", "--json"), "as JSON"), *SOURCE_OPTIONS),
    "hpcc cache why docker://python:3.12",
)


def main(name: str, argv: list[str]) -> int:
    words = [word for word in argv if not word.startswith("-")]
    if not words or words[0] not in ("list", "clean", "why"):
        if {"-h", "--help"} & set(argv):
            print(f"Usage: hpcc cache {{{_SUBCOMMANDS}}} [OPTIONS]\n")
            for word, command in (("list", LIST), ("clean", CLEAN), ("why", WHY)):
                print("\n".join(wrap(f"  {word:<6}{command.summary}", 80, subsequent_indent=" " * 8)))
            return 0
        raise UsageError(
            "cache needs a subcommand", hint=f"One of: {_SUBCOMMANDS}. `hpcc cache list --help` tells more."
        )
    argv.remove(words[0])
    load_site_packages()
    return {"list": _list, "clean": _clean, "why": _why}[words[0]](argv)


def _why(argv: list[str]) -> int:
    from hpcc.explain import explain
    from hpcc.lookup import Wanted

    arguments = parse(WHY, argv)
    if len(arguments.positional) != 1:
        raise usage_error(WHY, "why needs one image")
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


def _list(argv: list[str]) -> int:
    from hpcc.cache.contents import contents

    arguments = parse(LIST, argv)
    kinds = _kinds(arguments)
    rows = [(tier, item) for tier in _tiers() for item in contents(tier) if item.kind in kinds]
    if arguments.json:
        names = [{**item._asdict(), "image": _image(item.path) if item.kind == "sif" else ""} for _, item in rows]
        print(json.dumps(names, indent=1))
        return 0
    if arguments.verbose:
        print(f"{'NAME':<40}{'LAST USED':<18}{'SIZE':>12}  TYPE")
        for _, item in rows:
            image = _image(item.path) if item.kind == "sif" else ""
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
            print(f"{item.name[:38]:<40}{used:<18}{_size(item.size):>12}  {item.kind}")
            if image:
                print(f"    {image}")
        print()
    sifs = [item.size for _, item in rows if item.kind == "sif"]
    blobs = [item.size for _, item in rows if item.kind == "blob"]
    packs = [item.size for _, item in rows if item.kind == "pack"]
    print(
        f"There are {len(sifs)} container file(s) using {_size(sum(sifs))} and "
        f"{len(blobs)} oci blob file(s) using {_size(sum(blobs))} of space"
    )
    if packs:
        print(f"and {len(packs)} converted layer(s) using {_size(sum(packs))}")
    print(f"Total space used: {_size(sum(sifs) + sum(blobs) + sum(packs))}")
    return 0


def _clean(argv: list[str]) -> int:
    from hpcc.cache.contents import contents, remove

    arguments = parse(CLEAN, argv)
    if arguments.positional:
        raise usage_error(CLEAN, f"clean takes no argument: {arguments.positional[0]}")
    kinds = _kinds(arguments)
    before = time.time() - _days(arguments) * 86400
    chosen = [
        (tier, item)
        for tier in _tiers()
        for item in contents(tier)
        if item.kind in kinds and item.owner == os.getuid() and item.used <= before and _is_named(item, arguments.name)
    ]
    if not chosen:
        print("There is nothing of yours to remove.")
        return 0
    total = _size(sum(item.size for _, item in chosen))
    if arguments.dry_run or not arguments.force:
        for _, item in chosen:
            verb = "Would remove" if arguments.dry_run else "To be removed:"
            print(f"{verb} {item.kind} {item.name} ({_size(item.size)})")
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
    for tier in _tiers():
        remove(tier, [item for other, item in chosen if other.root == tier.root])
    say("INFO", f"Removed {len(chosen)} object(s), {total}")
    return 0


def _tiers() -> "tuple[Cache, ...]":
    """The caches that are this user's to write to."""
    from hpcc.lookup import tiers
    from hpcc.settings import Settings

    return tiers(Settings.from_environ())[-2:]


def _kinds(arguments: Arguments) -> tuple[str, ...]:
    from hpcc.cache.contents import KINDS

    wanted = (arguments.type or "all").split(",")
    unknown = [kind for kind in wanted if kind not in (*KINDS, "all")]
    if unknown:
        raise UsageError(f"there is no type {unknown[0]!r}", hint=f"Types: {', '.join(KINDS)}, all.")
    return KINDS if "all" in wanted else tuple(wanted)


def _days(arguments: Arguments) -> float:
    if arguments.days is None:
        return 0.0
    if not arguments.days.isdigit():
        raise UsageError(f"--days {arguments.days!r} is no number of days")
    return float(arguments.days)


def _is_named(item: "Item", name: str | None) -> bool:
    if name is None or item.name == name:
        return True
    if not name.startswith("docker://") or item.kind != "sif":
        return False
    from hpcc.oci.reference import Reference

    image, reference = _image(item.path), Reference.parse(name)
    return image == reference.canonical if reference.digest else image.startswith(f"{reference.name}@")


def _image(path: str) -> str:
    """The reference of a cached SIF, "" where it does not say."""
    from hpcc.local import open_local

    try:
        image = open_local(path)
    except HpccError:
        return ""
    os.close(image.rootfs.fd)
    return image.reference


def _size(amount: int) -> str:
    value = float(amount)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
