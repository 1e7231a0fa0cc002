"""hpcc cache: one module for each subcommand."""

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "list": Subcommand("how much the cache holds, and what", "hpcc.cli.cache.list"),
    "clean": Subcommand("remove your own objects", "hpcc.cli.cache.clean"),
    "why": Subcommand("why an image was fetched again, or would be", "hpcc.cli.cache.why"),
}


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "The cache of images, and what is in it.", SUBCOMMANDS, "hpcc cache list -v")
