"""hpcc key list."""

import json
import os

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.sif.stdout import write_lines
from hpcc.cli.sign import KEYSDIR
from hpcc.signing.keyring import Keyring

COMMAND = Command(
    "key list [OPTIONS]",
    "Show the keys in the keyring: the public ones, unless an option says otherwise.",
    (
        Option(("-s", "--secret"), "the secret keys, with the numbers that `sign --keyidx` takes"),
        Option(("-j", "--json"), "as JSON"),
        KEYSDIR._replace(names=("-d", "--keysdir")),
    ),
    "hpcc key list --secret",
)


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"list takes no argument: {arguments.positional[0]}")
    keyring = Keyring.of(os.environ, arguments.keysdir)
    keys = keyring.secret_certificates() if arguments.secret else keyring.public()
    if arguments.json:
        rows = [
            {
                "index": place,
                "user": key.user,
                "created": key.created.isoformat(),
                "fingerprint": key.fingerprint,
                "bits": key.bits,
                "trouble": key.trouble or None,
            }
            for place, key in enumerate(keys)
        ]
        write_lines(json.dumps(rows, indent=1).splitlines())
        return 0
    what, path = ("Private", keyring.secret_path) if arguments.secret else ("Public", keyring.public_path)
    write_lines([f"{what} key listing ({path}):", ""])
    for place, key in enumerate(keys):
        lines = [
            f"{place})  User:              {key.user}",
            f"    Creation time:     {key.created:%Y-%m-%d %H:%M:%S} +0000 UTC",
            f"    Fingerprint:       {key.fingerprint}",
            f"    Length (in bits):  {key.bits}",
        ]
        write_lines([*lines, *([f"    Trouble:           it {key.trouble}"] if key.trouble else []), ""])
    return 0
