"""hpcc verify: whether a SIF's signatures hold. Names, arguments and what is printed are Apptainer's."""

import functools
import json
import os
from collections.abc import Callable
from typing import Any

from hpcc.cli import inform, say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.sif.opening import opened, pread
from hpcc.cli.sif.stdout import write_lines
from hpcc.cli.sign import ID_OPTIONS, KEYSDIR, numbers
from hpcc.errors import HpccError, IntegrityError
from hpcc.settings import Settings
from hpcc.sif.descriptor import Descriptor
from hpcc.sif.extra import TYPES
from hpcc.sif.load import load
from hpcc.signing import signer
from hpcc.signing.signer import Opened, Result
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "verify [OPTIONS] SIF",
    "Verify the digital signatures of a SIF: every one of every group of its objects, by the keys in your keyring and "
    "the site's, and by those that a key server has. A signature says who made an image; whether that is somebody to "
    "trust, you decide: look at the fingerprint.",
    (
        *ID_OPTIONS,
        Option(("-a", "--all"), "all objects, which is what is done anyway"),
        Option(("--key",), "by this public key in PEM alone", "FILE"),
        Option(("-l", "--local"), "ask no key server"),
        Option(("-u", "--url"), "the key server; keys.openpgp.org unless given", "URL"),
        Option(("-j", "--json"), "as JSON"),
        KEYSDIR,
    ),
    "hpcc verify image.sif\nhpcc verify --key public.pem image.sif",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "verify needs one SIF")
    group, id = numbers(arguments)
    load_site_packages()
    (path,) = arguments.positional
    key = arguments.key or os.environ.get("HPCC_VERIFY_KEY") or os.environ.get("APPTAINER_VERIFY_KEY")
    inform(arguments, f"Verifying image with {f'key material from {key!r}' if key else 'PGP key material'}")
    material = _Pem(key) if key else _OpenPGP(arguments)
    shown = _Json(material) if arguments.json else _Text(material)
    try:
        with opened(path, load) as (fd, sif):
            signer.verify(
                lambda offset, length: pread(fd, length, offset), sif, material.open, shown.add, group=group, id=id
            )
    except IntegrityError as error:
        shown.end()
        raise type(error)(f"Failed to verify container: {path}: {error.message}", hint=error.hint) from None
    shown.end()
    inform(arguments, f"Verified signature(s) from image '{path}'")
    return 0


def is_verified(path: str, arguments: Arguments | None = None) -> HpccError | None:
    """Why the SIF does not verify by the user's keyring, the site's and the key server; None where it does."""
    material = _OpenPGP(arguments)
    try:
        with opened(path, load) as (fd, sif):
            signer.verify(lambda offset, length: pread(fd, length, offset), sif, material.open, lambda result: None)
    except IntegrityError as error:
        return error
    return None


class _Pem:
    """By a key in PEM; DSSE alone."""

    def __init__(self, path: str) -> None:
        from hpcc.signing import dsse

        self._dsse, self._key = dsse, dsse.load_public(path)

    def open(self, each: Descriptor, data: bytes) -> Opened:
        if not self._dsse.is_envelope(data):
            raise IntegrityError("it is by OpenPGP, and a key in PEM was given", hint="Leave --key away.")
        return Opened(self._dsse.verify(data, self._key))

    def name(self, fingerprint: str) -> tuple[str, str]:
        return "", ""


class _OpenPGP:
    """By the user's keyring, the site's, and a key server."""

    def __init__(self, arguments: Arguments | None) -> None:
        from hpcc.signing import keyring, openpgp

        self._keyring, self._openpgp = keyring, openpgp
        options: dict[str, Any] = arguments.options if arguments is not None else {}
        self._user = keyring.Keyring.of(os.environ, options.get("keysdir"))
        self._remote: list[Any] = []
        self._settings = Settings.from_environ()
        self._url = options.get("url")
        self._asks = not options.get("local") and not self._settings.offline

    @functools.cached_property
    def _local(self) -> list[Any]:
        return self._user.public()  # not before there is a signature: that there is none can be told without a library

    @functools.cached_property
    def _site(self) -> list[Any]:
        return self._keyring.site_keys()

    def open(self, each: Descriptor, data: bytes) -> Opened:
        if not data.startswith(self._openpgp.BEGIN):
            raise IntegrityError("it is by a key in PEM", hint="Give that public key: --key FILE.")
        done = self._openpgp.verify(data, self._find)
        return Opened(done.content, done.fingerprint)

    def name(self, fingerprint: str) -> tuple[str, str]:
        """Where the key is from, LOCAL, GLOBAL or REMOTE, and whose it says that it is."""
        for where, keys in (("LOCAL", self._local), ("GLOBAL", self._site), ("REMOTE", self._remote)):
            for key in keys:
                if key.fingerprint == fingerprint:
                    return where, key.user
        return "", ""

    def _find(self, id: str) -> list[Any]:
        # The site's word stands beside the user's: where either says that a key is revoked, it is.
        found = self._keyring.matching([*self._local, *self._site], id)
        if found or not self._asks:
            return found
        from hpcc.cli.key.server import fetch_key

        try:
            self._remote += fetch_key(id, self._url, self._settings)
        except HpccError as error:
            say("WARNING", f"{error.message}")
        return self._keyring.matching(self._remote, id)


Shown = Callable[[str], tuple[str, str]]


class _Text:
    def __init__(self, material: Any) -> None:
        self._material = material

    def add(self, result: Result) -> None:
        if result.fingerprint:
            where, user = self._material.name(result.fingerprint)
            head = f"[{where}]"
            write_lines([f"{head:<18} Signing entity: {user}", f"{head:<18} Fingerprint: {result.fingerprint}"])
        if result.error is None:
            lines = ["Objects verified:", "ID  |GROUP   |LINK    |TYPE", "-" * 48]
            lines += [f"{each.id:<4}|{each.group_number:<8}|{_link(each):<8}|{_type(each)}" for each in result.verified]
            write_lines(lines)

    def end(self) -> None:
        """Nothing is left to say."""


class _Json:
    def __init__(self, material: Any) -> None:
        self._material, self._count = material, 0
        self._rows: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        self._count += 1
        where, user = self._material.name(result.fingerprint)
        for each in result.verified:
            self._rows.append(
                {
                    "Partition": _type(each),
                    "Name": user or "unknown",
                    "Fingerprint": result.fingerprint.lower(),
                    "KeyLocal": where == "LOCAL",
                    "KeyCheck": bool(result.fingerprint),
                    "DataCheck": True,
                }
            )

    def end(self) -> None:
        rows = [{"Signer": row} for row in self._rows] or None
        write_lines(json.dumps({"Signatures": self._count, "SignerKeys": rows}, indent=2).splitlines())


def _link(each: Descriptor) -> str:
    if each.linked_group:
        return f"{each.linked_group} (G)"
    return str(each.linked_object or "NONE")


def _type(each: Descriptor) -> str:
    return TYPES.get(each.type, "Unknown")
