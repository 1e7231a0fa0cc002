"""hpcc cache: one module for each subcommand."""

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "list": Subcommand("how much the cache holds, and what", "hpcc.cli.cache.list"),
    "clean": Subcommand("remove your own objects", "hpcc.cli.cache.clean"),
    "gc": Subcommand("remove what the cache can do without, for cron", "hpcc.cli.cache.gc"),
    "init": Subcommand("make a directory the cache of a group", "hpcc.cli.cache.init"),
    "pin": Subcommand("keep images from gc", "hpcc.cli.cache.pin"),
    "roots": Subcommand("files that keep their images from gc", "hpcc.cli.cache.roots"),
    "tiers": Subcommand("the caches: whose, how roomy, what is wrong", "hpcc.cli.cache.tiers"),
    "unpin": Subcommand("take your pins away", "hpcc.cli.cache.pin", "unpin"),
    "why": Subcommand("why an image was fetched again, or would be", "hpcc.cli.cache.why"),
    "verify": Subcommand("check that everything in the cache is what it should be", "hpcc.cli.cache.verify"),
    "stats": Subcommand("what takes the room, and what sharing saves", "hpcc.cli.cache.stats"),
    "export": Subcommand("write images into one file, for a cluster without a network", "hpcc.cli.cache.export"),
    "import": Subcommand("take images from such a file", "hpcc.cli.cache.import_"),
    "adopt": Subcommand("take over what Apptainer or Snakemake have fetched", "hpcc.cli.cache.adopt"),
}


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "The cache of images, and what is in it.", SUBCOMMANDS, "hpcc cache list -v")
