"""What the bytes of a SIF depend on, and the name that follows from it."""

from hpcc.records import NamedTuple

MARK = "hpcc.json"
"""Name of the SIF object by which hpcc knows a SIF of its own, and the name under which it stands in a cache."""


AGENTS = frozenset(
    ("docker-archive", "docker-daemon", "http", "https", "library", "oci", "oci-archive", "oras", "shub")
)
"""What stands before the colon of an image's name, beside docker and local paths. No registry has such a name: each has
a slash, before its repository.
"""


class Origin(NamedTuple):
    """Where an image comes from, as far as its bytes depend on it.

    name is registry/repository, and digest that of the manifest for the platform. What comes from elsewhere has no name
    that is the same everywhere, so an agent stands in its place (docs/adr/0016); of what Docker saved, which has no
    manifest, it is the config's digest, the image's id.
    """

    name: str
    digest: str
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
