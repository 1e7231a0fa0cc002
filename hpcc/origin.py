"""What the bytes of a SIF depend on, and the name that follows from it."""

from hpcc.records import NamedTuple

MARK = "hpcc.json"
"""Name of the SIF object by which hpcc knows a SIF of its own, and the name under which it stands in a cache."""


class Origin(NamedTuple):
    """Where an image comes from, as far as its bytes depend on it."""

    name: str  # registry/repository
    digest: str  # of the manifest for the platform
    platform: str
    converter: str  # id

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.digest}"

    @property
    def key(self) -> str:
        """The name of the SIF in a cache: 64 hexadecimal digits."""
        from hashlib import sha256

        return sha256("\0".join(("sif-v1", *self)).encode()).hexdigest()
