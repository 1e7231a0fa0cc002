"""New OpenPGP keys: one RSA key that certifies and signs, as Apptainer's, so that Apptainer can sign by it too.

pysequoia makes keys whose primary part only certifies, by which Apptainer makes signatures that nobody accepts, and it
cannot protect a secret key by a passphrase. So the packets are written here; numbers and signature are those of
`cryptography`. RFC 4880, packets of version 4:

    key        4  created u32  1  n  e                                                       tag 6, tag 5 with
    secret     0   d p q u   their sum u16                                                     and no passphrase
               254 9 3 8 salt[8] count iv[16] AES-256-CFB(d p q u, SHA-1 of them)              and a passphrase
    user       its text                                                                      tag 13
    signature  4 0x13 1 10 u16 hashed  u16 unhashed  first two bytes of the hash  number     tag 2; 5.2.3, 5.2.4

A number is its length in bits, u16, and its bytes. The key of AES is SHA-256 of salt and passphrase, repeated to
`count` bytes (3.7.1.3); u is the inverse of p modulo q, and p the smaller one.
"""

import hashlib
import os
from typing import Any

_PUBLIC, _SECRET, _USER, _SIGNATURE = 6, 5, 13, 2
_RSA, _SHA512, _AES256, _SHA256, _SALTED = 1, 10, 9, 8, 3
_CERTIFIES_AND_SIGNS = 0x03
_COUNT = 0xF0  # coded: (16 << 15 + 6) bytes, 33.5 MB, some 30 ms
_BLOCK = 16


def new_key(user: str, bits: int, passphrase: str, now: int) -> tuple[bytes, bytes]:
    """(public, secret) packets of a new key of RSA that does not expire; "" leaves the secret numbers open."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    numbers = key.private_numbers()
    public = numbers.public_numbers
    body = b"\x04" + now.to_bytes(4, "big") + bytes((_RSA,)) + _number(public.n) + _number(public.e)
    p, q = sorted((numbers.p, numbers.q))
    secret = b"".join(map(_number, (numbers.d, p, q, pow(p, -1, q))))
    bound = _packet(_USER, user.encode()) + _packet(_SIGNATURE, _certification(key, body, user.encode(), now))
    kept = body + (_protected(secret, passphrase) if passphrase else b"\0" + secret + _sum(secret))
    return _packet(_PUBLIC, body) + bound, _packet(_SECRET, kept) + bound


def _certification(key: Any, body: bytes, user: bytes, now: int) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    framed = b"\x99" + len(body).to_bytes(2, "big") + body
    fingerprint = hashlib.sha1(framed).digest()  # noqa: S324 - RFC 4880 has no other here
    hashed = b"".join(
        bytes((len(value) + 1, kind)) + value
        for kind, value in (
            (2, now.to_bytes(4, "big")),
            (27, bytes((_CERTIFIES_AND_SIGNS,))),
            (11, bytes((_AES256,))),
            (21, bytes((_SHA512, _SHA256))),
            (30, b"\x01"),
            (33, b"\x04" + fingerprint),
        )
    )
    signed = bytes((4, 0x13, _RSA, _SHA512)) + len(hashed).to_bytes(2, "big") + hashed
    end = b"\x04\xff" + len(signed).to_bytes(4, "big")
    digest = hashlib.sha512(framed + b"\xb4" + len(user).to_bytes(4, "big") + user + signed + end).digest()
    value = key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA512()))
    unhashed = b"\x09\x10" + fingerprint[-8:]
    tail = len(unhashed).to_bytes(2, "big") + unhashed + digest[:2]
    return signed + tail + _number(int.from_bytes(value, "big"))


def _packet(tag: int, body: bytes) -> bytes:
    return bytes((0xC0 | tag, 0xFF)) + len(body).to_bytes(4, "big") + body


def _number(value: int) -> bytes:
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def _sum(secret: bytes) -> bytes:
    return (sum(secret) & 0xFFFF).to_bytes(2, "big")


def _protected(secret: bytes, passphrase: str) -> bytes:
    salt, iv = os.urandom(8), os.urandom(_BLOCK)
    encrypted = _cfb(_stretched(passphrase, salt), iv, secret + hashlib.sha1(secret).digest())  # noqa: S324 - RFC 4880 has no other here
    return bytes((254, _AES256, _SALTED, _SHA256)) + salt + bytes((_COUNT,)) + iv + encrypted


def _stretched(passphrase: str, salt: bytes) -> bytes:
    piece = salt + passphrase.encode()
    count = max(16 + (_COUNT & 15) << (_COUNT >> 4) + 6, len(piece))
    digest, whole = hashlib.sha256(), piece * (65536 // len(piece) + 1)
    for _ in range(count // len(whole)):
        digest.update(whole)
    rest = count % len(whole)
    digest.update((piece * (rest // len(piece) + 1))[:rest])
    return digest.digest()


def _cfb(key: bytes, iv: bytes, clear: bytes) -> bytes:
    """AES in CFB mode, by blocks: `cryptography` no longer wants to be asked for that mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encrypt = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - RFC 4880, section 13.9
    out, last = bytearray(), iv
    for at in range(0, len(clear), _BLOCK):
        last = bytes(a ^ b for a, b in zip(clear[at : at + _BLOCK], encrypt.update(last), strict=False))
        out += last
    return bytes(out)
