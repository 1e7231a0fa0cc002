"""Names of images that lie in no registry: AGENT:PLACE[:REF], or AGENT://PLACE[:REF].

    docker-archive:save.tar:lab/tools:1.4     oci:/data/layout:1.4     oci-archive:x.tar     docker-daemon:tools:1.4

A place is a path, absolute or from the working directory, and ends before a colon: at the first one where what stands
before it is there. http and https keep their whole URL.
"""

import os

from hpcc.errors import UsageError
from hpcc.origin import AGENTS
from hpcc.records import NamedTuple

_PATHS = frozenset(("docker-archive", "oci", "oci-archive"))
_EXAMPLES = {
    "docker-archive": "docker-archive:save.tar",
    "docker-daemon": "docker-daemon:tools:1.4",
    "library": "library://lab/group/tools:1.4",
    "oci": "oci:DIR:1.4",
    "oci-archive": "oci-archive:image.tar:1.4",
    "oras": "oras://ghcr.io/lab/tools:1.4",
}


class Named(NamedTuple):
    """place: a path; of docker-daemon, library and oras the image's name, of http and https the URL. ref may be ""."""

    agent: str
    place: str
    ref: str = ""


def parse_named(uri: str) -> Named | None:
    """What `uri` names; None where it begins with no agent. UsageError where nothing follows."""
    agent, colon, rest = uri.partition(":")
    if not colon or agent not in AGENTS:
        return None
    if agent in ("http", "https"):
        return Named(agent, uri) if rest.startswith("//") else None
    place = rest.removeprefix("//")
    if not place:
        raise UsageError(f"{uri} names no image", hint=f"For example {_EXAMPLES.get(agent, agent + ':NAME')}.")
    if "\0" in place:
        raise UsageError(f"{uri!r} has a NUL in it")
    return Named(agent, *_split(place)) if agent in _PATHS else Named(agent, place)


def file_name(named: Named, *, raw: bool = False) -> str:
    """The file that `pull` writes without OUT: tools_1.4.sif of lab/tools:1.4, save.sif of save.tar or its URL; with
    raw the URL's own name.
    """
    if named.agent in ("http", "https"):
        from urllib.parse import unquote

        from hpcc.registry.addresses import split

        parts = split(named.place)
        if parts is None:
            raise UsageError(f"{named.place[:300]!r} is no http:// or https:// URL")
        base = os.path.basename(unquote(parts.path)).replace("\0", "")
        base = base if base not in ("", ".", "..") else "image.sif"
        return base if raw else f"{_stem(base).removesuffix('.sif') or 'image'}.sif"
    if named.agent in _PATHS:
        stem = _stem(os.path.basename(named.place.rstrip("/")) or "image")
        tag = named.ref.rpartition("/")[2].replace(":", "_").removeprefix("@")
        return f"{stem}_{tag}.sif" if tag and stem else f"{stem or 'image'}.sif"
    name, at, digest = named.place.partition("@")
    name, _, tag = name.rpartition("/")[2].partition(":")
    return f"{name}_{digest.replace(':', '.') if at else tag or 'latest'}.sif"


def _stem(base: str) -> str:
    return next((base.removesuffix(end) for end in (".tar.gz", ".tgz", ".tar") if base.endswith(end)), base)


def _split(place: str) -> tuple[str, str]:
    at = place.find(":")
    first = at
    while at >= 0:
        if at and os.path.exists(place[:at]):
            return place[:at], place[at + 1 :]
        at = place.find(":", at + 1)
    if os.path.exists(place) or first <= 0:
        return place, ""
    return place[:first], place[first + 1 :]
