"""hpcc cache list: how much the cache holds, and what."""

import json
import time

from hpcc.cli.arguments import Command, Option, parse
from hpcc.cli.cache.items import TYPE_OPTION, chosen_kinds, image_of, own_tiers, size_text

COMMAND = Command(
    "cache list [OPTIONS]",
    "Show how much the cache holds.",
    (
        Option(("-j", "--json"), "as JSON"),
        TYPE_OPTION,
    ),
    "hpcc cache list -v",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.contents import contents

    arguments = parse(COMMAND, argv)
    kinds = chosen_kinds(arguments)
    rows = [(tier, item) for tier in own_tiers() for item in contents(tier) if item.kind in kinds]
    if arguments.json:
        names = [{**item._asdict(), "image": image_of(item.path) if item.kind == "sif" else ""} for _, item in rows]
        print(json.dumps(names, indent=1))
        return 0
    if arguments.verbose:
        print(f"{'NAME':<40}{'LAST USED':<18}{'SIZE':>12}  TYPE")
        for _, item in rows:
            image = image_of(item.path) if item.kind == "sif" else ""
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
            print(f"{item.name[:38]:<40}{used:<18}{size_text(item.size):>12}  {item.kind}")
            if image:
                print(f"    {image}")
        print()
    sifs = [item.size for _, item in rows if item.kind == "sif"]
    blobs = [item.size for _, item in rows if item.kind == "blob"]
    packs = [item.size for _, item in rows if item.kind == "pack"]
    print(
        f"There are {len(sifs)} container file(s) using {size_text(sum(sifs))} and "
        f"{len(blobs)} oci blob file(s) using {size_text(sum(blobs))} of space"
    )
    if packs:
        print(f"and {len(packs)} converted layer(s) using {size_text(sum(packs))}")
    print(f"Total space used: {size_text(sum(sifs) + sum(blobs) + sum(packs))}")
    return 0
