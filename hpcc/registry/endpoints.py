"""Where to ask for an image: the mirrors that a site or a user has for it, then its registry. Pure.

    reference   docker.io/library/debian:12
    rule        prefix docker.io, mirrors http://cache.site:5000 and mirror.site/hub
    endpoints   cache.site:5000        library/debian      http
                mirror.site            hub/library/debian  https
                registry-1.docker.io   library/debian      https

What a rule means is said in containers-registries.conf(5), "Choosing a [[registry]] TOML table" and "Remapping and
mirroring registries": of the rules whose prefix fits, the one with the longest prefix counts, and no other.
"""

from collections.abc import Iterable, Sequence

from hpcc.errors import AccessDenied, InvalidReference, SettingsError
from hpcc.oci.reference import DOCKER_HUB, Reference, api_host, canonical_registry
from hpcc.records import NamedTuple

_LOCATION = "It is host[:port][/path], as mirror.example or mirror.example:5000/hub; a host has a dot or a port."


class Endpoint(NamedTuple):
    """Where one may ask, and under which name."""

    host: str  # host[:port] of the API: registry-1.docker.io for docker.io
    repository: str
    scheme: str  # "https"; "insecure": https without checking the certificate, then http; "http"
    mirror: bool
    for_tags: bool  # whether it may be asked what a tag names
    for_digests: bool  # whether it may be asked for what has a digest


class Mirror(NamedTuple):
    """`location` as `parse_location` gives it, behind http:// or https:// where that was written."""

    location: str
    insecure: bool = False
    for_tags: bool = True
    for_digests: bool = True


class Rule(NamedTuple):
    """What is told of the images whose names begin with `prefix`.

    prefix is what `parse_prefix` gives. location is where they really are, as `parse_location` gives it without a
    scheme; "" leaves the name as it is. insecure is the location's; a mirror has its own. origin is the file or setting
    that says so, for errors.
    """

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]
    origin: str


def find_endpoints(
    reference: Reference, rules: Iterable[Rule], *, nohttps: bool, insecure: Sequence[str]
) -> tuple[Endpoint, ...]:
    """Where to ask for the image, in order: the mirrors, then the registry itself, or what a rule puts in its place.

    nohttps and insecure (host[:port]) are the settings. Only a mirror written with https:// is exempt from nohttps.
    Mirrors that serve digests only or tags only are there too: whoever asks goes by `for_tags` and `for_digests`.
    Raises AccessDenied where a rule blocks the image, SettingsError where a location leaves no repository to ask for.
    """
    rule = find_rule(reference, rules)
    hosts = {canonical_registry(host) for host in insecure}
    if rule is None:
        return (_endpoint(Mirror(reference.name), "", False, nohttps, hosts, ""),)
    if rule.blocked:
        raise AccessDenied(
            f"{reference}: {rule.origin} blocks {rule.prefix}",
            hint="Use an image from elsewhere, or ask whoever wrote that file.",
        )
    rest = _rest(reference.name, _versions(reference), rule.prefix) or ""
    found = [_endpoint(mirror, rest, True, nohttps, hosts, rule.origin) for mirror in rule.mirrors]
    itself = (rule.location, rest) if rule.location else (reference.name, "")
    found.append(_endpoint(Mirror(itself[0], rule.insecure), itself[1], False, nohttps, hosts, rule.origin))
    return tuple(found)


def find_rule(reference: Reference, rules: Iterable[Rule]) -> Rule | None:
    """The rule with the longest prefix that fits; of two as long, the one without a wildcard."""
    return _longest(reference.name, _versions(reference), rules)


def with_mirrors(mirrors: Iterable[tuple[str, Sequence[str]]], rules: Sequence[Rule], origin: str) -> tuple[Rule, ...]:
    """`rules`, with these mirrors of each prefix in place of those that they name for the same prefix.

    All else that `rules` say of such a prefix, or of a shorter one that covers it, stays true: where its images really
    are, whether they are blocked. Raises SettingsError, which names `origin`, for what is no prefix or no location.
    """
    found = {rule.prefix: rule for rule in rules}
    for prefix_text, locations in mirrors:
        try:
            prefix = parse_prefix(prefix_text)
            parsed = tuple(Mirror(parse_location(location, scheme=True)) for location in locations)
        except InvalidReference as error:
            raise SettingsError(f"{origin}: mirrors of {prefix_text!r}: {error.message}", hint=error.hint) from None
        name, version = _split_version(prefix)
        parent = _longest(name, (version,), rules)
        if parent is None:
            rule = Rule(prefix, "", False, False, parsed, origin)
        else:
            rest = _rest(name, (version,), parent.prefix) or ""
            location = f"{parent.location}{rest}" if parent.location else ""
            blamed = parent.origin if parent.blocked else origin
            rule = parent._replace(prefix=prefix, location=location, mirrors=parsed, origin=blamed)
        found[prefix] = rule
    return tuple(found.values())


def parse_prefix(text: str) -> str:
    """`text` in one spelling: host[:port][/path][:tag|@digest], or *.host. InvalidReference where it is none.

    Docker Hub's names become docker.io. As in containers-registries.conf(5), "Normalization of docker.io references",
    its library/ must be written out: docker.io/alpine is what that user has, docker.io/library/alpine is the image.
    """
    if text.startswith("*."):
        if any(character in text for character in "/:@"):
            raise InvalidReference(
                f"{text!r}: behind *. may stand a host, and nothing else", hint="As in *.example.com."
            )
        return f"*{_canonical(f'x{text[1:]}')[0][1:]}"
    return "".join(_canonical(text))


def parse_location(text: str, *, scheme: bool = False, version: str = "") -> str:
    """`text`, host[:port][/path], in one spelling; InvalidReference where it is none.

    scheme: whether http:// or https:// may stand before it. version: the tag or digest that must stand behind it, with
    its : or @, as for a prefix that ends so; it is left out of what is returned.
    """
    before, separator, rest = text.rpartition("://")
    if separator and not (scheme and before in ("http", "https")):
        wanted = "http:// and https:// only" if scheme else "no scheme"
        raise InvalidReference(f"{text!r}: before a location may stand {wanted}", hint=_LOCATION)
    name, found = _canonical(rest)
    if found != version:
        wanted = f"must end in {version}, as its prefix does" if version else "must have no tag and no digest"
        raise InvalidReference(f"{text!r}: a location {wanted}")
    return f"{before}{separator}{name}"


def version_of(prefix: str) -> str:
    """The tag or digest at the end of a prefix, with its : or @; "" where it has none."""
    return _split_version(prefix)[1]


def _endpoint(where: Mirror, rest: str, mirror: bool, nohttps: bool, insecure: set[str], origin: str) -> Endpoint:
    before, _, address = where.location.rpartition("://")
    host, _, repository = f"{address}{rest}".partition("/")
    if not repository:
        raise SettingsError(
            f"{origin}: {where.location} stands for a whole repository, and names none",
            hint="Write the repository behind the host, or give a shorter prefix.",
        )
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if before == "http" or (nohttps and not before):
        scheme = "http"
    else:
        scheme = "insecure" if where.insecure or host in insecure else "https"
    return Endpoint(api_host(host), repository, scheme, mirror, where.for_tags, where.for_digests)


def _longest(name: str, versions: Sequence[str], rules: Iterable[Rule]) -> Rule | None:
    fitting = (rule for rule in rules if _rest(name, versions, rule.prefix) is not None)
    return max(fitting, key=lambda rule: (len(rule.prefix), not rule.prefix.startswith("*.")), default=None)


def _rest(name: str, versions: Sequence[str], prefix: str) -> str | None:
    """What a location has to be followed by: the part of `name` (host/path) behind the prefix; None: it does not fit.

    A prefix with a port is for that port, one without for a host without. A wildcard is for all ports, since it can
    name none; containers/image reads it so too.
    """
    if prefix.startswith("*."):
        host, slash, path = name.partition("/")
        return f"{slash}{path}" if host.partition(":")[0].endswith(prefix[1:]) else None
    begin, version = _split_version(prefix)
    if name == begin:
        return "" if not version or version in versions else None
    return name[len(begin) :] if not version and name.startswith(f"{begin}/") else None


def _versions(reference: Reference) -> tuple[str, ...]:
    """How the reference may end: :tag, @digest, or both."""
    tag = f":{reference.tag}" if reference.tag else ""
    digest = f"@{reference.digest}" if reference.digest else ""
    return tag, digest, f"{tag}{digest}"


def _split_version(text: str) -> tuple[str, str]:
    """(host[:port][/path], the tag or digest behind it with its : or @, or ""); a colon before a slash is a port's."""
    name, at, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if colon and "/" in head:
        return head, f"{colon}{tag}{at}{digest}"
    return name, f"{at}{digest}"


def _canonical(text: str) -> tuple[str, str]:
    """(host[:port][/path] in the spelling that references have, the tag or digest behind it)."""
    name, version = _split_version(text.rstrip("/"))
    first = name.partition("/")[0]
    if not ("." in first or ":" in first or first == "localhost") or "://" in name:
        raise InvalidReference(f"{text!r} does not begin with a host", hint=_LOCATION)
    try:  # two parts more, since a host alone is no reference, and docker.io/x would become docker.io/library/x
        reference = Reference.parse(f"{name}/x/x{version}")
    except InvalidReference:
        raise InvalidReference(f"{text!r} is no host[:port][/path]", hint=_LOCATION) from None
    return f"{reference.registry}/{reference.repository[: -len('x/x')]}".rstrip("/"), version
