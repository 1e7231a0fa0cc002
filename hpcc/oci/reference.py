"""Image references: what a user writes to name an image in a registry.

    docker://registry.example:5000/group/name:tag@sha256:…
    └scheme┘ └────registry───────┘ └repository┘ └t┘ └digest┘

The grammar is that of distribution/reference, with Docker Hub's habits: without a registry it is
docker.io, `library/` is implied there, and the tag is `latest` where there is neither tag nor digest.
No regular expressions: this is on the way of each run, and `re` costs more than all of it.
"""

from hpcc.errors import InvalidReference
from hpcc.oci.digest import Digest
from hpcc.records import NamedTuple

DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
_HUB_API = "registry-1.docker.io"
_DIGITS = frozenset("0123456789")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_LETTERS = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG = _LETTERS | frozenset("_.-")
_EXAMPLE = "Examples: docker://debian:12, docker://quay.io/group/name:1.0, docker://host:5000/name@sha256:…"


class Reference(NamedTuple):
    """A parsed reference; at least one of `tag` and `digest` is there. The digest wins where both are.

    registry is lower case, with a port where one was written; repository is the full path.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """`text`, with or without docker://, in canonical form; InvalidReference tells what is wrong."""
        if len(text) > 1024:
            raise InvalidReference(f"a reference of {len(text)} characters, starting {text[:60]!r}, is too long")
        rest = text
        scheme, separator, after = text.partition("://")
        if separator:
            if scheme != "docker":
                raise InvalidReference(f"{text!r} is not a docker:// reference", hint=_EXAMPLE)
            rest = after
        rest, at, digest_text = rest.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except InvalidReference as error:
                raise InvalidReference(f"reference {text!r}: {error.message}", hint=error.hint or _EXAMPLE) from None
        name, tag = _split_tag(rest)
        if tag is not None:
            _check_tag(tag, text)
        elif digest is None:
            tag = "latest"
        registry, repository = _split_registry(name, text)
        _check_repository(repository, text)
        if registry == DOCKER_HUB and "/" not in repository:
            if len(repository) == 64 and not repository.strip("0123456789abcdef"):
                raise InvalidReference(f"{text!r} is an image id, not a name", hint=_EXAMPLE)
            repository = f"library/{repository}"
        if len(registry) + 1 + len(repository) > 255:
            raise InvalidReference(f"reference {text!r}: the name is longer than 255 characters")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository: docker.io/library/debian."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The name, and the digest where there is one, else the tag: docker.io/library/debian:12."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def tag_or_digest(self) -> str:
        """What the distribution API calls <reference>: the digest where there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag or "latest"

    @property
    def api_host(self) -> str:
        """Host and port that answer for this registry."""
        return api_host(self.registry)

    @property
    def file_name(self) -> str:
        """The file that `pull` writes without OUT: debian_12.sif, debian_sha256.<hex>.sif."""
        version = f"{self.digest.algorithm}.{self.digest.hex}" if self.digest else self.tag
        return f"{self.repository.rpartition('/')[2]}_{version}.sif"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"docker://{self.name}{tag}{digest}"


def canonical_registry(host: str) -> str:
    """`host` in lower case, and the three names of Docker Hub as one."""
    host = host.lower()
    return DOCKER_HUB if host in _HUB_NAMES else host


def covers(pattern: str, name: str) -> bool:
    """Whether registry/repository is what a setting means by quay.io, quay.io/group, or quay.io/group/*."""
    registry, slash, rest = pattern.removeprefix("docker://").partition("/")
    pattern = canonical_registry(registry) + slash + rest
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return name == pattern or name.startswith(pattern.rstrip("/") + "/")


def api_host(registry: str) -> str:
    """The host to talk to for a registry's name: Docker Hub's API lives at another one."""
    return _HUB_API if registry in _HUB_NAMES else registry


def _split_tag(rest: str) -> tuple[str, str | None]:
    """(name, tag or None); a colon before the last slash belongs to a port."""
    head, colon, tail = rest.rpartition(":")
    return (head, tail) if colon and "/" not in tail and not tail.endswith("]") else (rest, None)


def _split_registry(name: str, text: str) -> tuple[str, str]:
    """(canonical registry, repository). The first part is a host where it could be no part of a repository."""
    if not name:
        raise InvalidReference(f"reference {text!r} names no repository", hint=_EXAMPLE)
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB, name
    return canonical_registry(_check_host(first, text)), rest


def _check_host(host: str, text: str) -> str:
    """`host` with its address and port in one spelling, or InvalidReference."""
    wrong = InvalidReference(f"reference {text!r}: {host!r} is no host[:port]", hint=_EXAMPLE)
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise wrong
        import ipaddress

        try:
            name = f"[{ipaddress.IPv6Address(address).compressed}]"
        except ValueError:
            raise wrong from None
        if "%" in name:  # a zone means something on one machine only
            raise wrong
        colon, port = port[:1], port[1:]
    else:
        name, colon, port = host.partition(":")
        for label in name.split("."):
            if not label or not _LETTERS.issuperset(label.replace("-", "")) or label[0] == "-" or label[-1] == "-":
                raise wrong
    if not colon:
        return name
    if not port or len(port) > 5 or not _DIGITS.issuperset(port) or not 0 < int(port) < 65536:
        raise wrong
    return f"{name}:{int(port)}"


def _check_repository(repository: str, text: str) -> None:
    for character in repository:
        if "A" <= character <= "Z":
            raise InvalidReference(
                f"reference {text!r}: upper case {character!r} in the repository {repository!r}",
                hint=f"Repositories are lower case: {repository.lower()}. A registry has a dot or a port.",
            )
        if character not in _LOWER and character not in "._-/":
            raise InvalidReference(f"reference {text!r}: {character!r} cannot stand in a repository", hint=_EXAMPLE)
    for part in repository.split("/"):
        if not part:
            raise InvalidReference(f"reference {text!r}: a part of the repository is empty", hint=_EXAMPLE)
        if part[0] not in _LOWER or part[-1] not in _LOWER:
            raise InvalidReference(f"reference {text!r}: {part!r} does not begin and end with a letter or digit")
        if not _separators_ok(part):
            raise InvalidReference(
                f"reference {text!r}: {part!r}: only '.', '_', '__' or hyphens may stand between letters and digits"
            )


def _separators_ok(part: str) -> bool:
    run = ""
    for character in part:
        if character not in _LOWER:
            run += character
        elif run:
            if run not in (".", "_", "__") and run.strip("-"):
                return False
            run = ""
    return True


def _check_tag(tag: str, text: str) -> None:
    if not tag or len(tag) > 128 or tag[0] in ".-" or not _TAG.issuperset(tag):
        raise InvalidReference(
            f"reference {text!r}: {tag[:140]!r} is no tag",
            hint="A tag has 1 to 128 letters, digits, '_', '.' and '-', and starts with none of the last two.",
        )
