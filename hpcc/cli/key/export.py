"""hpcc key export."""

import os

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.sign import KEYSDIR
from hpcc.copy import new_file
from hpcc.errors import UsageError
from hpcc.signing import openpgp
from hpcc.signing.keyring import Keyring, normal_fingerprint

COMMAND = Command(
    "key export [OPTIONS] FILE",
    "Write a key of the keyring to a new file: the public one, unless an option says otherwise. A secret key keeps its "
    "passphrase; its file is for you alone.",
    (
        Option(("-a", "--armor"), "as text"),
        Option(("-s", "--secret"), "the secret key"),
        Option(("-f", "--fingerprint"), "which key; needed where there are several", "FINGERPRINT"),
        KEYSDIR._replace(names=("-d", "--keysdir")),
    ),
    "hpcc key export --armor ann.asc",
)


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "export needs the name of one file")
    (path,) = arguments.positional
    keyring = Keyring.of(os.environ, arguments.keysdir)
    keys = keyring.secret() if arguments.secret else {key.fingerprint: key.data for key in keyring.public()}
    if arguments.fingerprint:
        wanted = normal_fingerprint(arguments.fingerprint)
        keys = {name: data for name, data in keys.items() if name.endswith(wanted)}
    if len(keys) != 1:
        raise UsageError(
            f"the keyring has {len(keys) or 'no'} such key{'s' if len(keys) > 1 else ''}",
            hint="`hpcc key list` shows them; --fingerprint chooses one.",
        )
    ((fingerprint, data),) = keys.items()
    with new_file(path, replace=False, mode=0o600 if arguments.secret else 0o644) as file:
        file.write(openpgp.armor(data, secret=arguments.secret) if arguments.armor else data)
    inform(arguments, f"The key {fingerprint} is in {path}")
    return 0
