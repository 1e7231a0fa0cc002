"""hpcc cache tiers: which caches there are, whose they are, how much room they have, what is wrong with them."""

import json

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import size_text, tier_kinds, user_name

COMMAND = Command(
    "cache tiers [--json]",
    "Show the caches in the order in which images are looked up: libraries, shared, private.",
    (Option(("-j", "--json"), "as JSON"),),
    "hpcc cache tiers",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.survey import roomier_places, survey
    from hpcc.lookup import tiers
    from hpcc.settings import Settings

    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"tiers takes no argument: {arguments.positional[0]}")
    settings = Settings.from_environ()
    home = settings.environ.get("HOME") or "/"
    found = [survey(cache, kind, home) for cache, kind in zip(tiers(settings), tier_kinds(settings), strict=True)]
    places: tuple[tuple[str, str], ...] = ()
    if settings.origins["cache_dir"] == "default":
        places = roomier_places(settings.cache_dir, home, settings.scratch_dirs, settings.environ)
    if arguments.json:
        hints = [{"variable": name, "path": path} for name, path in places]
        rows = [{**tier._asdict(), "user": user_name(tier.owner)} for tier in found]
        print(json.dumps({"tiers": rows, "roomier": hints}, indent=1))
        return 0
    for tier in found:
        print(f"{tier.kind:<9}{tier.path}")
        if tier.mode is None:
            said = "not there yet"
        else:
            said = f"{tier.images} image(s), of {user_name(tier.owner)}, mode {tier.mode:04o}"
        print(f"         {said}, {size_text(tier.room)} free, {'writable' if tier.writable else 'read-only'}")
        named = (*tier.trusted_users, *(f"group {name}" for name in tier.trusted_groups))
        print(f"         trusted: {', '.join(('you', 'root', 'its owner', *dict.fromkeys(named)))}")
        for warning in tier.warnings:
            print(f"         WARNING: {warning}")
    for name, path in places:
        print(f"\n${name} is roomier: export HPCC_CACHE_DIR={path}/hpcc")
    return 0
