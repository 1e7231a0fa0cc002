"""hpcc cache pin, hpcc cache unpin: images that garbage collection leaves alone."""

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import find_key, pins_text

PIN = Command(
    "cache pin [--note TEXT] IMAGE|KEY…",
    "Keep cached images, whatever `hpcc cache gc` goes by. Asks no registry.",
    (Option(("--note",), "why, for the others who use the cache", "TEXT"),),
    "hpcc cache pin --note 'paper of 2027' docker://debian:12",
)
UNPIN = Command(
    "cache unpin IMAGE|KEY…",
    "Take your own pins away. Those of others stay.",
    (),
    "hpcc cache unpin docker://debian:12",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.pins import pin

    arguments = parse(PIN, argv)
    if not arguments.positional:
        raise usage_error(PIN, "pin needs an image")
    for tier, key in [find_key(uri) for uri in arguments.positional]:
        pin(tier, key, arguments.note or "")
        inform(arguments, f"Pinned {key[:12]} in {tier.root}")
    return 0


def unpin(argv: list[str]) -> int:
    from hpcc.cache import pins

    arguments = parse(UNPIN, argv)
    if not arguments.positional:
        raise usage_error(UNPIN, "unpin needs an image")
    for tier, key in [find_key(uri) for uri in arguments.positional]:
        said = f"Unpinned {key[:12]}" if pins.unpin(tier, key) else f"{key[:12]} had no pin of yours"
        others = pins.pins_of(tier, key)
        inform(arguments, f"{said}; it is still pinned by {pins_text(others)}" if others else said)
    return 0
