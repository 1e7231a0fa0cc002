"""What http://, https://, library:// and oras:// name, and what the caches have of it. fetching.py asks others.

address --ref, within the ttl--> manifest --> blob
"""

from __future__ import annotations

from hpcc.errors import InvalidReference, PolicyError, UsageError
from hpcc.lookup import known_digests
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference, covers
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.registry.addresses import split
from hpcc.sources.library import LibraryName
from hpcc.sources.sifs import Kept, open_file, read_kept
from hpcc.sources.signatures import needs_signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpcc.cache.layout import Cache
    from hpcc.oci.platform import Platform
    from hpcc.settings import Settings
    from hpcc.sources.agents import Named


class Address(NamedTuple):
    """Where a SIF is to be had. reference: by which the cache knows it; name: by which the site's policies do; url: of
    http alone; expected: the digest of the file, where the user gives it.
    """

    uri: str
    reference: Reference
    name: str
    url: str = ""
    expected: Digest | None = None
    library: LibraryName | None = None


class File(NamedTuple):
    """A fetched file, open; the caller closes it."""

    fd: int
    path: str


def parse_address(uri: str, named: Named, platform: Platform, settings: Settings) -> Address:
    """What `uri` means here. InvalidReference, UsageError; PolicyError where the site does not allow it."""
    if named.agent == "oras":
        reference = Reference.parse(f"docker://{named.place}")
        address = Address(uri, reference, reference.name)
    elif named.agent == "library":
        library = LibraryName.parse(named.place, settings.library_url)
        host = host_of(library.endpoint)
        hashed = Digest.of(f"{library.endpoint}/{library.path}:{library.version} {platform.architecture}".encode()).hex
        reference = Reference(host, f"library/{hashed[:40]}", "latest", None)
        address = Address(uri, reference, f"{host}/{library.path}", expected=library.digest, library=library)
    else:
        address = _parse_url(uri, named.place)
    if settings.frozen and address.expected is None and address.reference.digest is None:
        raise UsageError(
            f"{uri} names no digest, and only images whose digest is known are taken here (the setting frozen)",
            hint="Behind a URL #sha256=…, behind a name @sha256:…",
        )
    allowed = settings.allowed_registries
    if allowed and not any(covers(pattern, address.name) for pattern in allowed):
        raise PolicyError(
            f"{address.name}: this site does not allow images from there",
            hint=f"Allowed are: {', '.join(allowed)} (the setting allowed_registries).",
        )
    if named.agent != "oras" and needs_signature(address.name, settings):
        raise PolicyError(
            f"{address.name}: this site wants it signed, and hpcc finds signatures of cosign in registries alone",
            hint="Take the image from a registry (docker://), or ask your administrator (the setting signed).",
        )
    return address


def _parse_url(uri: str, text: str) -> Address:
    url, _, fragment = text.partition("#")
    expected = None
    if fragment.startswith("sha256="):
        try:
            expected = Digest.parse(f"sha256:{fragment[7:].lower()}")
        except InvalidReference as error:
            raise UsageError(f"{uri}: {error.message}", hint="#sha256= and 64 hexadecimal digits.") from None
    parts = split(url)
    hashed = Digest.of(f"{url} {expected}".encode()).hex
    reference = Reference(host_of(url), f"url/{hashed[:40]}", "latest", None)
    return Address(uri, reference, f"{host_of(url)}{parts.path if parts else ''}", url, expected)


def host_of(url: str) -> str:
    parts = split(url)
    if parts is None:
        raise UsageError(f"{url[:300]!r} is no http:// or https:// URL")
    return parts.netloc.rpartition("@")[2].lower()


def may_be_private(address: Address, settings: Settings) -> bool:
    """Whether an address may be one that not everybody has, or can use: its name goes into no lock of a group's."""
    if address.url:
        return "?" in address.url  # as signed URLs of object stores are
    return address.library is None or bool(token(address.library, settings))


def known(
    address: Address, caches: tuple[Cache, ...], settings: Settings, *, since: float | None = None, stale: bool = False
) -> Iterator[tuple[Kept, File]]:
    """What the caches know of the address, best first, and have."""
    for known in known_digests(address.reference, caches, settings, since=since, stale=stale):
        kept = read_kept(caches, known.digest)
        file = open_file(caches, kept.file) if kept is not None else None
        if kept is not None and file is not None:
            yield kept, File(*file)


def token(library: LibraryName, settings: Settings) -> str:
    """For the library of the settings and no other that a name asks for; from the environment alone, so that it is on
    no command line."""
    if library.endpoint != settings.library_url.rstrip("/"):
        return ""
    names = (f"{prefix}_LIBRARY_TOKEN" for prefix in ("HPCC", "APPTAINER", "SINGULARITY"))
    return next((value for name in names if (value := settings.environ.get(name))), "")
