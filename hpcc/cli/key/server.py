"""hpcc key pull, push, search; and a key that verify looks for."""

import os

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.sif.stdout import write_lines
from hpcc.cli.sign import KEYSDIR
from hpcc.errors import IntegrityError, SettingsError, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.settings import Settings
from hpcc.signing import openpgp
from hpcc.signing.keyring import Keyring, matching, normal_fingerprint, site_keys
from hpcc.signing.openpgp import PublicKey
from hpcc.version import __version__

if TYPE_CHECKING:
    from hpcc.registry.keyserver import Keyserver

_URL = Option(("-u", "--url"), "the key server; keys.openpgp.org unless given", "URL")
PULL = Command(
    "key pull [OPTIONS] FINGERPRINT",
    "Take a public key from a key server into the keyring. Whoever is in the keyring counts for `verify`: have the "
    "fingerprint confirmed by its owner first.",
    (_URL, KEYSDIR._replace(names=("-d", "--keysdir"))),
    "hpcc key pull 8883491F4268F173C6E5DC49EDECE4F3F38D871E",
)
PUSH = Command(
    "key push [OPTIONS] FINGERPRINT",
    "Send a public key of the keyring to a key server.",
    (_URL, KEYSDIR._replace(names=("-d", "--keysdir"))),
    "hpcc key push 8883491F4268F173C6E5DC49EDECE4F3F38D871E",
)
SEARCH = Command(
    "key search [OPTIONS] WORDS",
    "Look for public keys on a key server, by name, address or fingerprint; at most 100 are shown.",
    (_URL, Option(("-l", "--long-list"), "with date and length")),
    "hpcc key search ann@example.org",
)


def pull(argv: list[str]) -> int:
    arguments, fingerprint = _one(PULL, argv)
    keyring = Keyring.of(os.environ, arguments.keysdir)
    keys = fetch_key(fingerprint, arguments.url, Settings.from_environ())
    new = keyring.add(b"".join(each.data for each in keys))
    for each in keys:
        how = "added to the keyring" if each in new else "is in the keyring already"
        inform(arguments, f"{each.fingerprint} of {each.user or 'nobody who is named'}: {how}")
    return 0


def push(argv: list[str]) -> int:
    arguments, fingerprint = _one(PUSH, argv)
    found = matching([*Keyring.of(os.environ, arguments.keysdir).public(), *site_keys()], fingerprint)
    if len({each.fingerprint for each in found}) != 1:
        raise UsageError(f"the keyring has no one key {fingerprint}", hint="`hpcc key list` shows them.")
    send_key(found[0], arguments.url)
    inform(arguments, f"Public key {found[0].fingerprint} pushed to the key server successfully")
    return 0


def search(argv: list[str]) -> int:
    arguments = parse(SEARCH, argv)
    if not arguments.positional:
        raise usage_error(SEARCH, "search needs a name, an address or a fingerprint")
    words = " ".join(arguments.positional)
    plain = words.removeprefix("0x")
    if len(plain) in (8, 16, 40) and not plain.upper().strip("0123456789ABCDEF"):
        words = f"0x{plain}"
    with _server(arguments.url, Settings.from_environ()) as server:
        found = server.search(words)
    inform(arguments, f"Showing {len(found)} results")
    for each in found:
        users = list(each.users) or ["(no name)"]
        if arguments.long_list:
            users[0] += f", {each.bits or '?'} bits, made at {each.created or '?'}"
        write_lines([f"{each.fingerprint}  {users[0]}", *(f"{'':<42}{user}" for user in users[1:])])
    return 0


def fetch_key(id: str, url: str | None, settings: Settings) -> list[PublicKey]:
    """The certificates that a key server gives for a fingerprint or id: such alone that have a key of it.

    Raises ImageNotFound, RegistryError, IntegrityError.
    """
    with _server(url, settings) as server:
        keys = openpgp.parse_keys(server.get(id), f"what {server.host} sends")
        found = matching(keys, id)
        if not found:
            raise IntegrityError(f"{server.host} was asked for the key {id}, and sends another one")
    return found


def send_key(key: PublicKey, url: str | None) -> None:
    with _server(url, Settings.from_environ()) as server:
        server.add(openpgp.armor(key.data, secret=False))


def _server(url: str | None, settings: Settings) -> "Keyserver":
    from hpcc.registry.keyserver import DEFAULT, Keyserver

    if settings.offline:
        raise SettingsError(
            f"hpcc is offline ({settings.origins['offline']}), and asks no key server", hint="HPCC_OFFLINE=false."
        )
    files = (settings.ca_file,) if settings.ca_file else ()
    return Keyserver(url or DEFAULT, user_agent=f"hpcc/{__version__}", ca_files=files)


def _one(command: Command, argv: list[str]) -> tuple[Arguments, str]:
    arguments = parse(command, argv)
    if len(arguments.positional) != 1:
        raise usage_error(command, f"{command.usage.split()[1]} needs one fingerprint")
    return arguments, normal_fingerprint(arguments.positional[0])
