"""hpcc sign: put signatures on a SIF. Names and arguments are Apptainer's."""

import os
import time
from collections.abc import Callable

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.passphrase import read_passphrase
from hpcc.cli.sif.opening import opened
from hpcc.errors import UsageError
from hpcc.sif import table
from hpcc.signing import signer
from hpcc.signing.signer import Signed
from hpcc.sitepath import load_site_packages

ID_OPTIONS = (
    Option(("-g", "--group-id"), "this group of objects alone", "N"),
    Option(("-i", "--sif-id"), "this object alone", "N"),
)
KEYSDIR = Option(("--keysdir",), "the keyring; ~/.apptainer/keys unless given", "DIR")
COMMAND = Command(
    "sign [OPTIONS] SIF",
    "Add a digital signature to a SIF, one for each group of its objects: by an OpenPGP key of your keyring (`hpcc key "
    "newpair` makes one), or by a private key in PEM. Its passphrase is asked for, or read from stdin.",
    (
        *ID_OPTIONS,
        Option(("-k", "--keyidx"), "the key with this number in `hpcc key list --secret`", "N"),
        Option(("--key",), "sign by this private key in PEM", "FILE"),
        KEYSDIR,
    ),
    "hpcc sign image.sif\nhpcc sign --key private.pem image.sif",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "sign needs one SIF")
    (path,) = arguments.positional
    group, id = numbers(arguments)
    load_site_packages()
    with opened(path, table.read):
        pass  # what is no SIF is told before a passphrase is asked for
    key = arguments.key or os.environ.get("HPCC_SIGN_KEY") or os.environ.get("APPTAINER_SIGN_KEY")
    if key:
        inform(arguments, f"Signing image with key material from '{key}'")
        sign_one = _by_pem(key)
    else:
        inform(arguments, "Signing image with PGP key material")
        sign_one = _by_openpgp(arguments)
    signer.sign(path, sign_one, group=group, id=id, now=int(time.time()))
    inform(arguments, f"Signature created and applied to image '{path}'")
    return 0


def numbers(arguments: Arguments) -> tuple[int, int]:
    """The values of --group-id and --sif-id, 0 for none. UsageError for what are none, and for both."""
    found = []
    for name, text in (("--group-id", arguments.group_id), ("--sif-id", arguments.sif_id)):
        if text is not None and not (text.isascii() and text.isdigit() and 0 < int(text[:12]) < 0xF0000000):
            raise UsageError(f"{name} {text}: a number from 1 on is needed", hint="`hpcc sif list FILE` shows them.")
        found.append(int(text or 0))
    if all(found):
        raise UsageError("--group-id and --sif-id exclude each other", hint="An object is of one group.")
    return found[0], found[1]


def _by_pem(path: str) -> Callable[[bytes], Signed]:
    from hpcc.signing import dsse

    try:
        key = dsse.load_private(path)
    except dsse.Passphrase:
        key = dsse.load_private(path, read_passphrase("Enter key passphrase : "))
    return lambda content: Signed(dsse.sign(key, content), dsse.SHA256)


def _by_openpgp(arguments: Arguments) -> Callable[[bytes], Signed]:
    from hpcc.signing import openpgp
    from hpcc.signing.keyring import Keyring

    keyring = Keyring.of(os.environ, arguments.keysdir)
    secrets = keyring.secret()
    if not secrets:
        raise UsageError(f"no private keys in {keyring.secret_path}", hint="`hpcc key newpair` makes one.")
    index = arguments.keyidx or ("0" if len(secrets) == 1 else "")
    if not (index.isascii() and index.isdigit() and int(index[:9]) < len(secrets)):
        raise UsageError(
            f"which of your {len(secrets)} keys? --keyidx {index or 'N'}", hint="`hpcc key list --secret` shows them."
        )
    secret = list(secrets.values())[int(index)]
    key = openpgp.Signer(secret, None if openpgp.is_open(secret) else read_passphrase("Enter key passphrase : "))
    fingerprint = bytes.fromhex(key.fingerprint)
    if len(fingerprint) != 20:
        raise UsageError(f"a SIF takes no signatures by keys of version 6: {key.fingerprint}", hint="Use one of v4.")

    def sign_one(content: bytes) -> Signed:
        message = key(content)
        return Signed(message, openpgp.hash_of(message), fingerprint)

    return sign_one
