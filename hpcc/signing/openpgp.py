"""OpenPGP by pysequoia: keys, cleartext signatures. This module alone imports it, and only when it is used.

What it cannot do: make a key that Apptainer can use, or protect one by a passphrase (newkey.py does both); and tell why
a signature does not hold (`_explain` looks at the keys that it asked for).
"""

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from hpcc.errors import HpccError, IntegrityError, InvalidImage, SettingsError, UsageError
from hpcc.records import NamedTuple

BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_HASH = re.compile(rb"^Hash: ([A-Z0-9-]+)", re.MULTILINE)
_HASHES = {"SHA256": 1, "SHA384": 2, "SHA512": 3}
"""What SIF's descriptors call them."""


class PublicKey(NamedTuple):
    """A certificate: its packets, its fingerprint in capitals, and who it says that it is."""

    data: bytes
    fingerprint: str
    user: str
    created: datetime
    bits: int
    revoked: bool
    expires: datetime | None

    @property
    def trouble(self) -> str:
        """Why nothing that it signs counts now; "" where that does."""
        if self.revoked:
            return "is revoked"
        return f"has expired on {self.expires:%Y-%m-%d}" if self.expires and self.expires < datetime.now(UTC) else ""


class Verified(NamedTuple):
    """What was signed, and the fingerprint of the certificate, not of its subkey."""

    content: bytes
    fingerprint: str


def _library() -> Any:
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    try:
        import pysequoia
    except ImportError:
        raise SettingsError(
            "OpenPGP keys need pysequoia, which is not installed here",
            hint="pip install 'hpcc[sign]'. Keys in PEM (sign --key FILE, verify --key FILE) do without it.",
        ) from None
    return pysequoia


def parse_keys(data: bytes, what: str) -> list[PublicKey]:
    """All certificates in some bytes, armored or not, without secrets. InvalidImage for what are none."""
    library = _library()
    try:
        found = library.Cert.split_bytes(data) if data else []
    except Exception as error:
        raise InvalidImage(f"{what}: no OpenPGP keys can be read there ({_first_line(error)})") from None
    return [_public(each) for each in found]


def _public(cert: Any) -> PublicKey:
    packets = _library().packet.PacketPile.from_bytes(bytes(cert))
    first = next(iter(packets))
    body = bytes(first.body)
    bits = int.from_bytes(body[6:8], "big") if body[5] in (1, 2, 3, 17) else 256
    # Whoever made the key chose the text, and it is shown where a terminal would take it for commands.
    users = ["".join(letter if letter.isprintable() else "?" for letter in str(each)) for each in cert.user_ids]
    return PublicKey(
        bytes(cert),
        str(cert.fingerprint).upper(),
        users[0] if users else "",
        first.key_created,
        bits,
        bool(cert.is_revoked),
        cert.expiration,
    )


def has_secret(data: bytes) -> bool:
    """Whether there is a secret key in these bytes."""
    try:
        return any(each.has_secret_keys for each in _library().Cert.split_bytes(data))
    except Exception:
        return False


def parse_secret_keys(data: bytes, what: str) -> dict[str, bytes]:
    """Fingerprint -> packets of each secret key. InvalidImage for what are none."""
    library = _library()
    try:
        found = library.Cert.split_bytes(data) if data else []
        return {str(each.fingerprint).upper(): bytes(each.secrets) for each in found if each.has_secret_keys}
    except Exception as error:
        raise InvalidImage(f"{what}: no secret OpenPGP keys can be read there ({_first_line(error)})") from None


def generate(user: str, bits: int, passphrase: str) -> tuple[bytes, bytes]:
    """(public, secret) packets of a new key that does not expire, for signing alone. SettingsError as of the others."""
    _library()
    try:
        from hpcc.signing.newkey import new_key

        return new_key(user, bits, passphrase, int(time.time()))
    except ImportError:
        raise SettingsError(
            "new keys need cryptography, which is not installed here", hint="pip install 'hpcc[sign]'."
        ) from None


def armor(data: bytes, *, secret: bool) -> bytes:
    library = _library()
    kind = library.ArmorKind.SecretKey if secret else library.ArmorKind.PublicKey
    return str(library.armor(data, kind)).encode()


class Signer:
    """A secret key that is open. UsageError for a wrong passphrase, or a key that cannot sign (now)."""

    def __init__(self, secret: bytes, passphrase: str | None) -> None:
        library = _library()
        try:
            key = library.Tsk.from_bytes(secret)
            self.fingerprint = str(key.extract_certificate().fingerprint).upper()
            self._signer = key.signer(passphrase) if passphrase else key.signer()
        except Exception as error:
            text = _first_line(error)
            hint = "Is the passphrase right?" if "suitable" not in text else "`hpcc key list --secret` shows others."
            raise UsageError(f"the secret key cannot be used: {text}", hint=hint) from None

    def __call__(self, content: bytes) -> bytes:
        """A cleartext signature of bytes that are one line of text."""
        library = _library()
        try:
            return bytes(library.sign(self._signer, content, mode=library.SignatureMode.CLEAR))
        except Exception as error:
            raise UsageError(f"cannot sign: {_first_line(error)}") from None


def hash_of(message: bytes) -> int:
    """SIF's number of the hash that a cleartext signature was made with."""
    found = _HASH.search(message[:200])
    return _HASHES.get(found.group(1).decode() if found else "", 1)


def verify(message: bytes, find: Callable[[str], Sequence[PublicKey]]) -> Verified:
    """What a cleartext signature signs, and by whom. find: certificates that have a key of this id or fingerprint.

    IntegrityError where it does not hold: of other bytes, by a key that nobody has here, revoked, or expired.
    """
    library = _library()
    offered: list[PublicKey] = []
    asked: list[str] = []

    def store(ids: Sequence[str]) -> list[Any]:
        for id in ids:
            asked.append(str(id).upper())
            offered.extend(find(str(id).upper()))
        return [library.Cert.from_bytes(each.data) for each in offered]

    try:
        done = library.verify(bytes=message, store=store)
    except HpccError:
        raise
    except Exception as error:
        raise IntegrityError(_explain(_first_line(error), asked, offered)) from None
    for each in done.valid_sigs:
        fingerprint = str(each.certificate).upper()
        for key in offered:
            if key.fingerprint == fingerprint and not key.trouble and done.bytes is not None:
                return Verified(bytes(done.bytes), fingerprint)
    raise IntegrityError(_explain("no valid signatures found", asked, offered))


def _explain(text: str, asked: Sequence[str], offered: Sequence[PublicKey]) -> str:
    if asked and not offered:
        return f"signature made by unknown entity: key {asked[0]}"
    for key in offered:
        if key.trouble:
            return f"the key {key.fingerprint} ({key.user}) {key.trouble}"
    if offered:
        return f"the signature by {offered[0].fingerprint} ({offered[0].user}) is not one of these bytes"
    return text


def subkeys(key: PublicKey) -> tuple[str, ...]:
    """Fingerprints of the primary key and of all subkeys."""
    pile = _library().packet.PacketPile.from_bytes(key.data)
    found = (getattr(each, "fingerprint", None) for each in pile)
    return tuple(str(each).upper() for each in found if each)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")  # a stack of Rust's follows


def is_open(secret: bytes) -> bool:
    """Whether a secret key signs without a passphrase."""
    try:
        _library().Tsk.from_bytes(secret).signer()
    except HpccError:
        raise
    except Exception:
        return False
    return True
