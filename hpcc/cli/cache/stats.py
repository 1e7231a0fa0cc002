"""hpcc cache stats: what takes the room, who uses it, and what sharing saves."""

import json
import os
import secrets
import time

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import own_tiers, size_text
from hpcc.errors import CacheError, UsageError

SHOWN = 10
COMMAND = Command(
    "cache stats [OPTIONS]",
    "Show what takes the room in the cache, which images are used, and what sharing saves.",
    (
        Option(("-j", "--json"), "as JSON, with all images"),
        Option(("--plot",), "draw the images by size and last use into this file, .svg or .png", "FILE"),
    ),
    "hpcc cache stats --plot cache.svg",
)


def main(argv: list[str]) -> int:
    from hpcc.stats import read_stats

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"stats takes no argument: {arguments.positional[0]}")
    stats = read_stats(own_tiers())
    if arguments.plot is not None:
        from hpcc.cli.cache.picture import FORMATS, draw

        convert = FORMATS.get(os.path.splitext(arguments.plot)[1].lower())
        if convert is None:
            raise UsageError(f"--plot {arguments.plot}: hpcc draws SVG and PNG", hint="Name it FILE.svg or FILE.png.")
        _write(arguments.plot, convert(draw(stats.images, time.time())))
    if arguments.json:
        saved = {"shared": round(stats.shared, 4), "hours": stats.hours, "saved_pulls": stats.saved_pulls}
        document = {
            "kinds": [each._asdict() for each in stats.kinds],
            "images": [each._asdict() for each in stats.images],
            "tags": stats.tags,
            "layers": stats.layers,
            "different_layers": stats.different_layers,
            **saved,
            "saved_bytes": stats.saved_bytes,
        }
        print(json.dumps(document, indent=1))
        return 0
    for cache in dict.fromkeys(each.cache for each in stats.kinds):
        print(cache)
        for each in stats.kinds:
            if each.cache == cache:
                print(f"  {each.kind + 's':<8}{each.objects:>7}{size_text(each.size):>14}")
    print(f"\n{len(stats.images)} image(s), {stats.tags} tag(s). The largest:" if stats.images else "\nNo image.")
    for image in stats.images[:SHOWN]:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(image.used))
        print(f"  {size_text(image.size):>12}  {used}  {min(image.tags, key=len) if image.tags else image.reference}")
    if stats.layers:
        alone, together = size_text(stats.layers), size_text(stats.different_layers)
        print(f"\nTheir layers are {alone}, and {together} without what they share: {stats.shared:.0%} saved.")
    if stats.hours:
        print(
            f"Runs in {stats.hours} hour(s) or more. {stats.saved_pulls} pull(s), {size_text(stats.saved_bytes)}, were "
            "saved for users after the first."
        )
    if arguments.plot is not None:
        inform(arguments, f"Wrote {arguments.plot}")
    return 0


def _write(path: str, data: bytes) -> None:
    """Atomic: a picture that was there before is replaced as a whole."""
    temporary = f"{path}.{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror}", hint="Choose another place.") from None
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
