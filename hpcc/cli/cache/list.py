"""hpcc cache list: how much the cache holds, and what."""

import json
import time

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import (
    TYPE_OPTION,
    chosen_kinds,
    image_of,
    own_tiers,
    pins_text,
    short_name,
    size_text,
    user_name,
)

COMMAND = Command(
    "cache list [OPTIONS]",
    "Show how much the cache holds; with -v, each object, what was used last at the end.",
    (
        Option(("-j", "--json"), "as JSON"),
        TYPE_OPTION,
    ),
    "hpcc cache list -v",
)
_ROW = "{:<14}{:<18}{:<11}{:>11}  {:<6}{:<9}{}"


def main(argv: list[str]) -> int:
    from hpcc.cache.contents import contents
    from hpcc.cache.pins import read_pins

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"list takes no argument: {arguments.positional[0]}")
    kinds = chosen_kinds(arguments)
    shared, private = own_tiers()
    rows = [
        (tier, kind, item)
        for tier, kind in ((shared, "shared"), (private, "private"))
        for item in contents(tier)
        if item.kind in kinds
    ]
    rows.sort(key=lambda row: (row[2].used, row[2].name))
    pins = {tier.root: read_pins(tier) for tier in (shared, private)}
    if arguments.json:
        print(
            json.dumps(
                [
                    {
                        **item._asdict(),
                        "image": image_of(tier, item),
                        "user": user_name(item.owner),
                        "tier": kind,
                        "pins": [
                            {"user": user_name(pin.uid), "time": pin.time, "note": pin.note}
                            for pin in pins[tier.root].get(item.key, ())
                            if item.kind == "sif"
                        ],
                    }
                    for tier, kind, item in rows
                ],
                indent=1,
            )
        )
        return 0
    if arguments.verbose:
        print(_ROW.format("NAME", "LAST USED", "MADE", "SIZE", "TYPE", "TIER", "OWNER"))
        for tier, kind, item in rows:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
            made = time.strftime("%Y-%m-%d", time.localtime(item.made))
            size, owner = size_text(item.size), user_name(item.owner)
            print(_ROW.format(short_name(item), used, made, size, item.kind, kind, owner))
            if image := image_of(tier, item):
                print(f"    {image}")
            if item.kind == "sif" and (pinned := pins[tier.root].get(item.key)):
                print(f"    pinned by {pins_text(pinned)}")
        print()
    sifs = [item.size for *_, item in rows if item.kind == "sif"]
    blobs = [item.size for *_, item in rows if item.kind == "blob"]
    packs = [item.size for *_, item in rows if item.kind == "pack"]
    print(
        f"There are {len(sifs)} container file(s) using {size_text(sum(sifs))} and "
        f"{len(blobs)} oci blob file(s) using {size_text(sum(blobs))} of space"
    )
    if packs:
        print(f"and {len(packs)} converted layer(s) using {size_text(sum(packs))}")
    print(f"Total space used: {size_text(sum(sifs) + sum(blobs) + sum(packs))}")
    return 0
