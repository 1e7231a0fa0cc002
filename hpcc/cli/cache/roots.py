"""hpcc cache roots: files outside of the cache that keep their images in it."""

import json
import os
import time

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.cache.items import own_tiers, user_name
from hpcc.errors import ImageNotFound, UsageError
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc.cache.layout import Cache
    from hpcc.cache.mark import Mark

COMMAND = Command(
    "cache roots [--json | --prune | add PATH… | remove PATH…]",
    "Show the links and copies of cached images that keep these from `hpcc cache gc`, add some, or forget your own. A "
    "root counts as long as its file is there, and that image. `hpcc pull --name` adds its link by itself.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("--prune",), "forget your own that are no more"),
    ),
    "hpcc cache roots add results/.snakemake/singularity/*.simg",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.contents import is_in_charge
    from hpcc.cache.roots import is_alive, prune_roots, read_roots

    arguments = parse(COMMAND, argv)
    if arguments.positional[:1] == ["remove"]:
        return _remove(arguments)
    if arguments.positional:
        return _add(arguments)
    tiers = own_tiers()
    if arguments.prune:
        count = sum(
            prune_roots(tier, before=time.time(), owner=None if is_in_charge(tier) else os.geteuid()).files
            for tier in tiers
        )
        inform(arguments, f"Forgot {count} root(s)")
        return 0
    roots = [(root, is_alive(root), tier) for tier in tiers for root in read_roots(tier)]
    if arguments.json:
        rows = [{**root._asdict(), "user": user_name(root.uid), "alive": alive, "cache": tier.root}
                for root, alive, tier in roots]  # fmt: skip
        print(json.dumps(rows, indent=1))
        return 0
    for root, alive, _ in roots:
        print(f"{root.key[:12]}  {user_name(root.uid):<10}  {'' if alive else 'gone: '}{_plain(root.path)}")
    if not roots:
        print("There are no roots.")
    return 0


def _add(arguments: Arguments) -> int:
    from hpcc.cache.roots import register_root

    word, *paths = arguments.positional
    if word != "add" or not paths or arguments.prune or arguments.json:
        raise usage_error(COMMAND, "roots shows them; `roots add PATH…`, `roots remove PATH…`")
    found = [(path, mark, _tier_of(path, mark)) for path, mark in [(path, _mark(path)) for path in paths]]
    for path, mark, tier in found:
        register_root(tier, path, mark.key)
        inform(arguments, f"{path} keeps {mark.key[:12]} in {tier.root}")
    return 0


def _remove(arguments: Arguments) -> int:
    """The files themselves stay. Idempotent."""
    from hpcc.cache.roots import forget_root

    _, *paths = arguments.positional
    if not paths or arguments.prune or arguments.json:
        raise usage_error(COMMAND, "`roots remove PATH…` needs a path")
    tiers = own_tiers()
    for path in paths:
        forgotten = [forget_root(tier, path) for tier in tiers]
        said = "keeps nothing in the cache any more" if any(forgotten) else "was no root of yours"
        inform(arguments, f"{path} {said}")
    return 0


def _mark(path: str) -> "Mark":
    from hpcc.cache.mark import read_mark_at

    try:
        mark = read_mark_at(path)
    except OSError as error:
        raise ImageNotFound(f"{path}: {error.strerror}", hint="Name a SIF file, or a link to one.") from None
    if mark is None:
        raise UsageError(f"{path} is no SIF that hpcc made", hint="Only such are in the cache.")
    return mark


def _tier_of(path: str, mark: "Mark") -> "Cache":
    from hpcc.cache import walk

    for tier in own_tiers():
        if any(name.partition(".")[0] == mark.key for name in walk.names(tier, "sif-v1")):
            return tier
    raise ImageNotFound(f"the cache does not have the image of {path}", hint=f"It is {mark.reference}.")


def _plain(path: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in path)
