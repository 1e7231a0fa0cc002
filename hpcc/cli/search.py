"""hpcc search: images in a library, by words of their names."""

import json
from typing import Any

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.sif.stdout import write_lines
from hpcc.errors import UsageError
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "search [OPTIONS] TEXT",
    "Look for images in a library, by a text of at least three characters in their names. Registries of Docker images "
    "are not searched: they have no search that all of them know; their web pages have one.",
    (
        Option(("--arch",), "of this architecture, instead of this host's; amd64,arm64 for several", "ARCH"),
        Option(("--signed",), "only those with a signature"),
        Option(("--library",), "the library, instead of the setting library_url", "URL"),
        Option(("-j", "--json"), "as JSON"),
    ),
    "hpcc search --signed samtools",
)
LEAST = 3  # characters: what libraries take
_NAME = 52  # columns


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "search needs one text")
    (text,) = arguments.positional
    scheme, mark, _ = text.partition("://")
    if mark and scheme != "library":
        raise UsageError(
            f"{text[:200]}: registries of Docker images are not searched",
            hint="Their web pages have a search. `hpcc search TEXT` asks the library that library_url names.",
        )
    text = text.removeprefix("library://")
    if len(text) < LEAST:
        raise UsageError(f"{text!r} is too short: libraries look for at least {LEAST} characters")
    load_site_packages()
    from hpcc.cli.library import connect, settings_for
    from hpcc.oci.platform import Platform

    settings = settings_for(arguments, "asks no library")
    given = arguments.arch.split(",") if arguments.arch else [Platform.host().architecture]
    arch = ",".join(Platform.parse(each).architecture for each in given)
    endpoint = settings.library_url.rstrip("/")
    with connect(endpoint, settings) as library:
        found = library.search(text, arch, signed=bool(arguments.signed))
    rows = [_row(each) for each in found]
    if arguments.json:
        write_lines(json.dumps(rows, indent=1).splitlines())
        return 0
    inform(arguments, f"{len(rows)} image{'' if len(rows) == 1 else 's'} for {arch} in {endpoint}; it alone was asked")
    if rows:
        write_lines(
            [f"{'IMAGE':<{_NAME}} {'ARCH':<8} {'SIZE':>9} SIGNED", *(line for row in rows for line in _lines(row))]
        )
    return 0


def _row(image: dict[str, Any]) -> dict[str, Any]:
    """What is shown; a field of another type than it should have counts as not told."""

    def text(key: str) -> str:
        return image[key] if isinstance(image.get(key), str) else ""

    path = "/".join(text(key) for key in ("entityName", "collectionName", "containerName"))
    tags = image.get("tags")
    size = image.get("size")
    return {
        "image": f"library://{path}",
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "hash": text("hash"),
        "arch": text("arch"),
        "size": size if isinstance(size, int) and not isinstance(size, bool) else None,
        "signed": image["signed"] if isinstance(image.get("signed"), bool) else None,
        "description": text("description"),
    }


def _lines(row: dict[str, Any]) -> list[str]:
    """The first tag on the image's line, where there is room for it; the others below."""
    tags = row["tags"] or [row["hash"]]
    size = "" if row["size"] is None else f"{row['size'] / 1e6:,.1f} MB"
    signed = {True: "yes", False: "no"}.get(row["signed"], "?")
    values = f"{row['arch']:<8} {size:>9} {signed}"
    first = f"{row['image']}:{tags[0]}" if tags[0] else row["image"]
    lines = [f"{first:<{_NAME}} {values}"] if len(first) <= _NAME else [first, f"{'':<{_NAME}} {values}"]
    return [*lines, *(f"{'':<{len(row['image'])}}:{tag}" for tag in tags[1:])]
