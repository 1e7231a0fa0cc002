"""The user's OpenPGP keys: Apptainer's own keyring, so that the keys which somebody has are there at once.

    ~/.apptainer/keys/        or HPCC_KEYSDIR, APPTAINER_KEYSDIR, SINGULARITY_KEYSDIR; 0700
        pgp-public            certificates, one behind the other, binary; 0600
        pgp-secret            secret keys, the same
    /etc/hpcc/global-pgp-public, /etc/apptainer/global-pgp-public       a site's certificates, read only

A file is replaced whole, under a lock of the directory where that works.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hpcc.copy import new_file
from hpcc.errors import CacheError, InvalidImage, SettingsError, UsageError
from hpcc.signing import openpgp
from hpcc.signing.openpgp import PublicKey

VARIABLES = ("HPCC_KEYSDIR", "APPTAINER_KEYSDIR", "SINGULARITY_KEYSDIR")
GLOBAL = ("/etc/hpcc/global-pgp-public", "/etc/apptainer/global-pgp-public")
MAX_KEYRING = 64 << 20


class Keyring:
    """The keys in a directory, which need not be there yet. Raises CacheError where it cannot be read or written."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.public_path, self.secret_path = (os.path.join(directory, name) for name in ("pgp-public", "pgp-secret"))

    @classmethod
    def of(cls, environ: Mapping[str, str], directory: str | None = None) -> "Keyring":
        """The user's. SettingsError where there is no HOME."""
        chosen = directory or next((environ[name] for name in VARIABLES if environ.get(name)), "")
        if not chosen and not environ.get("HOME"):
            raise SettingsError("there is no place for keys: HOME is not set", hint="Set HOME or HPCC_KEYSDIR.")
        return cls(chosen or os.path.join(environ["HOME"], ".apptainer", "keys"))

    def public(self) -> list[PublicKey]:
        return openpgp.parse_keys(_read(self.public_path), self.public_path)

    def secret(self) -> dict[str, bytes]:
        """Fingerprint -> packets, in the file's order."""
        return openpgp.parse_secret_keys(_read(self.secret_path), self.secret_path)

    def secret_certificates(self) -> list[PublicKey]:
        """The certificates of the secret keys, in the order of `secret`."""
        return openpgp.parse_keys(_read(self.secret_path), self.secret_path)

    def add(self, public: bytes, secret: bytes = b"") -> list[PublicKey]:
        """Put certificates in, and a secret key; those that were not there. One that is there stays as it is."""
        with self._locked():
            new = _new(openpgp.parse_keys(public, "the key"), self.public())
            if secret:
                known = self.secret()
                found = openpgp.parse_secret_keys(secret, "the key")
                fresh = b"".join(data for fingerprint, data in found.items() if fingerprint not in known)
                if fresh:
                    self._write(self.secret_path, b"".join(known.values()) + fresh)
            if new:
                self._write(self.public_path, b"".join(each.data for each in (*self.public(), *new)))
            return new

    def remove(self, fingerprint: str, *, public: bool, secret: bool) -> tuple[bool, bool]:
        """Take the key of this fingerprint, or of the id at its end, out; whether it was in either file."""
        with self._locked():
            keys, secrets = self.public(), self.secret()
            gone = [each for each in keys if public and each.fingerprint.endswith(fingerprint)]
            lost = [each for each in secrets if secret and each.endswith(fingerprint)]
            if len(gone) > 1 or len(lost) > 1:
                raise UsageError(f"{fingerprint} names several keys", hint="Give the whole fingerprint.")
            if gone:
                self._write(self.public_path, b"".join(each.data for each in keys if each not in gone))
            if lost:
                self._write(self.secret_path, b"".join(data for each, data in secrets.items() if each not in lost))
            return bool(gone), bool(lost)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"cannot use {self.directory} for keys: {error.strerror}") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError:
                pass  # no locks here: the last of two changes at the same time wins
            yield
        finally:
            os.close(fd)

    def _write(self, path: str, data: bytes) -> None:
        with new_file(path, replace=True, mode=0o600) as file:
            file.write(data)


def site_keys() -> list[PublicKey]:
    """What the site trusts beside the user."""
    return [key for path in GLOBAL for key in openpgp.parse_keys(_read(path), path)]


def matching(keys: list[PublicKey], id: str) -> list[PublicKey]:
    """Those of which the primary key or a subkey has this fingerprint, or this id, which is its end."""
    return [each for each in keys if any(part.endswith(id) for part in openpgp.subkeys(each))]


def normal_fingerprint(text: str) -> str:
    """A fingerprint or an id of 8 or 16 digits, in capitals without spaces and 0x. UsageError for anything else."""
    plain = "".join(text.split()).upper().removeprefix("0X")
    if len(plain) not in (8, 16, 32, 40, 64) or plain.strip("0123456789ABCDEF"):
        raise UsageError(f"{text!r} is no fingerprint", hint="`hpcc key list` shows them: 40 digits, of 0-9 and A-F.")
    return plain


def _new(found: list[PublicKey], known: list[PublicKey]) -> list[PublicKey]:
    there = {each.fingerprint for each in known}
    return [each for each in found if each.fingerprint not in there]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEYRING + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CacheError(f"{path}: the keys cannot be read: {error.strerror}") from None
    if len(data) > MAX_KEYRING:
        raise InvalidImage(f"{path}: more than {MAX_KEYRING >> 20} MiB of keys")
    return data
