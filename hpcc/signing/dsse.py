"""Signatures in a DSSE envelope, by keys in PEM (github.com/secure-systems-lab/dsse, protocol.md and envelope.md).

    {"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"<base64>",
     "signatures":[{"keyid":"SHA256:…","sig":"<base64>"}]}

What is signed is "DSSEv1 LENGTH TYPE LENGTH PAYLOAD"; the scheme follows from the key, with SHA-256: ECDSA, RSA by
PKCS #1 v1.5, Ed25519. The key id is that of OpenSSH, `ssh-keygen -l`.
"""

import base64
import hashlib
import json
from typing import Any

from hpcc.errors import IntegrityError, SettingsError, UsageError
from hpcc.sif.integrity import MEDIA_TYPE

MAX_KEY = 64 << 10
LEAST_RSA = 2048  # bits; SP 800-131A, "Digital Signatures"
SHA256 = 1  # as SIF's descriptors call it


class Passphrase(UsageError):
    """The private key needs one, or another one."""


def load_private(path: str, passphrase: str | None = None) -> Any:
    """A private key in PEM. UsageError for none, Passphrase where it is encrypted."""
    serialization = _serialization()
    data = _read(path)
    try:
        key = serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError:
        raise Passphrase(f"{path}: the key is protected by a passphrase") from None
    except Exception:
        if passphrase:
            raise Passphrase(f"{path}: the passphrase is not the right one, or this is no key") from None
        raise UsageError(f"{path}: no private key in PEM", hint="openssl genpkey makes one, and cosign too.") from None
    _kind(key.public_key(), path)
    return key


def load_public(path: str) -> Any:
    """A public key in PEM. UsageError for none."""
    serialization = _serialization()
    try:
        key = serialization.load_pem_public_key(_read(path))
    except UsageError:
        raise
    except Exception:
        raise UsageError(
            f"{path}: no public key in PEM", hint="openssl pkey -in PRIVATE -pubout makes one of a private key."
        ) from None
    _kind(key, path)
    return key


def sign(key: Any, content: bytes) -> bytes:
    """The envelope."""
    scheme, public = _kind(key.public_key(), "the key"), key.public_key()
    signature = key.sign(_encoded(MEDIA_TYPE, content), *scheme)
    envelope = {
        "payloadType": MEDIA_TYPE,
        "payload": base64.b64encode(content).decode(),
        "signatures": [{"keyid": key_id(public), "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"


def is_envelope(data: bytes) -> bool:
    return data[:200].lstrip().startswith(b"{")


def verify(data: bytes, public: Any) -> bytes:
    """What an envelope signs. IntegrityError where no signature in it is by this key, or it is about something else."""
    from cryptography.exceptions import InvalidSignature

    try:
        envelope: Any = json.loads(data)
        kind, content = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        given = [(each.get("keyid") or "", base64.b64decode(each["sig"])) for each in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("the signature is no DSSE envelope") from None
    if kind != MEDIA_TYPE:
        raise IntegrityError(f"unexpected DSSE payload type: {str(kind)[:100]}")
    scheme, own = _kind(public, "the key"), key_id(public)
    for id, signature in given[:100]:
        if id in ("", own):
            try:
                public.verify(signature, _encoded(kind, content), *scheme)
                return content
            except InvalidSignature:
                continue
    raise IntegrityError("dsse: verify envelope failed: it is not signed by this key")


def key_id(public: Any) -> str:
    serialization = _serialization()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _encoded(kind: str, content: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(content), content)


def _kind(public: Any, what: str) -> tuple[Any, ...]:
    """How the key signs. UsageError for a kind of key that does not."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256 as hash

    if isinstance(public, ec.EllipticCurvePublicKey):
        return (ec.ECDSA(hash()),)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return ()
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < LEAST_RSA:
            raise UsageError(f"{what}: an RSA key of {public.key_size} bits, fewer than {LEAST_RSA}")
        return padding.PKCS1v15(), hash()
    raise UsageError(f"{what}: neither an ECDSA, an Ed25519 nor an RSA key")


def _serialization() -> Any:
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise SettingsError(
            "keys in PEM need cryptography, which is not installed here", hint="pip install 'hpcc[sign]'."
        ) from None
    return serialization


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise UsageError(f"{path}: the key cannot be read: {error.strerror}") from None
    if len(data) > MAX_KEY or data.count(b"-----BEGIN ") != 1:
        raise UsageError(f"{path}: not one key in PEM")
    return data
