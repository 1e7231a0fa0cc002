"""hpcc key newpair, import, remove."""

import os
import sys

from hpcc.cli import inform, say
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.passphrase import read_passphrase, refuse_on_argv
from hpcc.cli.sign import KEYSDIR
from hpcc.errors import UsageError
from hpcc.signing import openpgp
from hpcc.signing.keyring import MAX_KEYRING, Keyring, normal_fingerprint

NEWPAIR = Command(
    "key newpair [OPTIONS]",
    "Make a key pair and put it into the keyring. Name and address are asked for where they are missing; the "
    "passphrase is asked for, or read from stdin.",
    (
        Option(("-N", "--name"), "the owner's name", "NAME"),
        Option(("-E", "--email"), "the owner's address", "ADDRESS"),
        Option(("-C", "--comment"), "a comment", "TEXT"),
        Option(("-b", "--bit-length"), "of RSA: 2048, 3072 or 4096, which is the default", "N"),
        Option(("-U", "--push"), "send the public key to the key server"),
        Option(("-u", "--url"), "the key server; keys.openpgp.org unless given", "URL"),
        KEYSDIR._replace(names=("-d", "--keysdir")),
    ),
    "hpcc key newpair --name Ann --email ann@example.org",
)
IMPORT = Command(
    "key import [OPTIONS] FILE",
    "Take keys, public or secret, from a file, armored or not. A secret key keeps its passphrase.",
    (KEYSDIR._replace(names=("-d", "--keysdir")),),
    "hpcc key import ann.asc",
)
REMOVE = Command(
    "key remove [OPTIONS] FINGERPRINT",
    "Forget a key: the public one, unless an option says otherwise.",
    (
        Option(("-b", "--both"), "the public and the secret key"),
        Option(("-p", "--public"), "the public key"),
        Option(("-s", "--secret"), "the secret key"),
        KEYSDIR._replace(names=("-d", "--keysdir")),
    ),
    "hpcc key remove D87FE3AF5C1F063FCBCC9B02F812842B5EEE5934",
)


def newpair(argv: list[str]) -> int:
    refuse_on_argv(argv, "-P")
    arguments = parse(NEWPAIR, argv)
    if arguments.positional:
        raise usage_error(NEWPAIR, f"newpair takes no argument: {arguments.positional[0]}")
    bits = arguments.bit_length or "4096"
    if bits not in ("2048", "3072", "4096"):
        raise UsageError(f"--bit-length {bits}: keys of 2048, 3072 or 4096 bits are made")
    keyring = Keyring.of(os.environ, arguments.keysdir)
    name = arguments.name or _ask("name (e.g., Ann Lee)", "--name")
    email = arguments.email or _ask("address", "--email")
    comment = arguments.comment or ""
    for part in (name, email, comment):
        if not part.isprintable() or any(character in part for character in "()<>"):
            raise UsageError(f"{part!r} cannot stand in a key: no brackets, and nothing that cannot be printed")
    passphrase = read_passphrase("Enter a passphrase : ", twice=True)
    user = f"{name} ({comment}) <{email}>" if comment else f"{name} <{email}>"
    public, secret = openpgp.generate(user, int(bits), passphrase)
    if not passphrase and not arguments.silent:
        say("WARNING", "The key has no passphrase: whoever reads the file can sign as you.")
    (key,) = keyring.add(public, secret)
    inform(arguments, f"Key {key.fingerprint} of {key.user} is in {keyring.directory}")
    if arguments.push:
        from hpcc.cli.key.server import send_key

        send_key(key, arguments.url)
        inform(arguments, "The key server has it")
    return 0


def _ask(what: str, option: str) -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"a key needs its owner's {what.partition(' ')[0]}", hint=f"Give {option}.")
    sys.stderr.write(f"Enter your {what} : ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip()
    if not answer:
        raise UsageError(f"a key needs its owner's {what.partition(' ')[0]}", hint=f"Give {option}.")
    return answer


def import_(argv: list[str]) -> int:
    arguments = parse(IMPORT, argv)
    if len(arguments.positional) != 1:
        raise usage_error(IMPORT, "import needs one file")
    (path,) = arguments.positional
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEYRING + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    keys = openpgp.parse_keys(data, path)
    if not keys:
        raise UsageError(f"{path}: there is no key in it")
    keyring = Keyring.of(os.environ, arguments.keysdir)
    secret = data if openpgp.has_secret(data) else b""
    known = keyring.secret() if secret else {}
    new = {each.fingerprint for each in keyring.add(b"".join(each.data for each in keys), secret)}
    for key in keys:
        if key.fingerprint in new or (secret and key.fingerprint not in known):
            inform(arguments, f"Key with fingerprint {key.fingerprint} successfully added to the keyring")
        else:
            inform(arguments, f"The key {key.fingerprint} is already in the keyring")
    return 0


def remove(argv: list[str]) -> int:
    arguments = parse(REMOVE, argv)
    if len(arguments.positional) != 1:
        raise usage_error(REMOVE, "remove needs one fingerprint")
    fingerprint = normal_fingerprint(arguments.positional[0])
    keyring = Keyring.of(os.environ, arguments.keysdir)
    secret = arguments.both or arguments.secret
    public = arguments.both or arguments.public or not secret
    gone = keyring.remove(fingerprint, public=public, secret=secret)
    if not any(gone):
        what = "key" if public and secret else "public key" if public else "secret key"
        raise UsageError(f"the keyring has no {what} {fingerprint}", hint="`hpcc key list` shows them.")
    inform(arguments, f"{' and '.join(w for w, g in zip(('public', 'secret'), gone, strict=True) if g)} key removed")
    return 0
