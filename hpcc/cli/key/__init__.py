"""hpcc key: OpenPGP keys. Names and arguments are Apptainer's, and so is the keyring."""

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "newpair": Subcommand("make a key, public and secret", "hpcc.cli.key.make", "newpair"),
    "list": Subcommand("show the keys", "hpcc.cli.key.show"),
    "import": Subcommand("take a key from a file", "hpcc.cli.key.make", "import_"),
    "export": Subcommand("write a key to a file", "hpcc.cli.key.export"),
    "remove": Subcommand("forget a key", "hpcc.cli.key.make", "remove"),
    "pull": Subcommand("take a public key from a key server", "hpcc.cli.key.server", "pull"),
    "push": Subcommand("send a public key to a key server", "hpcc.cli.key.server", "push"),
    "search": Subcommand("look for keys on a key server", "hpcc.cli.key.server", "search"),
}


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "OpenPGP keys, to sign SIFs and verify them.", SUBCOMMANDS, "hpcc key list")
