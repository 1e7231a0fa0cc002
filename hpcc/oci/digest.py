"""Digests, and the check of bytes against them while they stream.

    sha256:<64 lower-case hexadecimal digits>      sha512:<128 of them>

OCI image specification, descriptor.md, "Digests".
"""

from __future__ import annotations

from hpcc.errors import IntegrityError, InvalidReference
from hpcc.records import NamedTuple

_LENGTHS = {"sha256": 64, "sha512": 128}


class Digest(NamedTuple):
    """The name of some bytes: what they hash to."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`text` as a digest; InvalidReference for another algorithm, length or alphabet."""
        algorithm, colon, value = text.partition(":")
        length = _LENGTHS.get(algorithm)
        if not colon or length is None:
            raise InvalidReference(
                f"{text[:100]!r} is no digest that hpcc knows",
                hint="Write sha256: or sha512: and then the hexadecimal digits.",
            )
        if len(value) != length or value.strip("0123456789abcdef"):
            raise InvalidReference(
                f"digest {text[:150]!r}: {algorithm} has {length} digits of 0-9 and a-f, this {len(value)} characters"
            )
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`; `algorithm` is one that `parse` knows."""
        import hashlib

        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Verifier:
    """Checks a stream against its size and digest.

    `update` each chunk before using it, `finish` at the end. `seen` is the bytes so far.
    `what` names the bytes in errors; the default is the digest.
    """

    __slots__ = ("_hash", "digest", "seen", "size", "what")

    def __init__(self, digest: Digest, size: int | None = None, what: str = "") -> None:
        import hashlib

        self.digest, self.size, self.seen = digest, size, 0
        self.what = what or str(digest)
        self._hash: hashlib._Hash = hashlib.new(digest.algorithm)

    def restart(self) -> None:
        """Forget all bytes; they come again from the first."""
        import hashlib

        self.seen, self._hash = 0, hashlib.new(self.digest.algorithm)

    def update(self, data: bytes) -> None:
        """Take in the next bytes; IntegrityError as soon as there are more than there should be."""
        self.seen += len(data)
        if self.size is not None and self.seen > self.size:
            raise IntegrityError(f"{self.what}: expected {self.size} bytes, found at least {self.seen}")
        self._hash.update(data)

    def finish(self) -> None:
        """All bytes were given: IntegrityError unless size, then digest, are what they should be."""
        if self.size is not None and self.seen != self.size:
            raise IntegrityError(f"{self.what}: expected {self.size} bytes, found {self.seen}")
        found = Digest(self.digest.algorithm, self._hash.hexdigest())
        if found != self.digest:
            raise IntegrityError(f"{self.what}: expected digest {self.digest}, found {found}")
