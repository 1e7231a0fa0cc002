"""Images in registries: what a reference means now, and its manifest and config in the cache.

Only HEADs are free of Docker Hub's quota: a tag is asked for by HEAD, and a manifest is fetched by digest when no cache
has it, and then kept for ever.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from hpcc.cache.blobs import MAX_SIZE, read_blob, write_blob
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Known, Ref, write_ref
from hpcc.errors import (
    CacheError,
    ImageNotFound,
    InvalidImage,
    RateLimited,
    RegistryUnavailable,
    UnsupportedImage,
)
from hpcc.oci.choice import choose_manifest
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from hpcc.oci.platform import Platform
from hpcc.oci.reference import Reference, covers
from hpcc.records import NamedTuple
from hpcc.registry.client import Registry
from hpcc.registry.credentials import find_credentials, may_find
from hpcc.registry.endpoints import Endpoint, find_endpoints
from hpcc.registry.registries_conf import rules_of
from hpcc.registry.sink import Memory
from hpcc.registry.upstream import Door, Upstream
from hpcc.settings import Settings
from hpcc.version import __version__


class Found(NamedTuple):
    """A reference, looked up: the manifest for the platform, its config, and where its parts belong."""

    top: Descriptor  # of the index or manifest that the reference names
    digest: Digest  # of the manifest for the platform
    manifest: Manifest
    config: ImageConfig
    tier: Cache  # the private one for what only credentials could pull


def connect(reference: Reference, settings: Settings) -> Upstream:
    """The reference's registry behind its mirrors, each with the credentials that the user has for it."""
    rules = rules_of(settings.mirrors, settings.environ, _home(settings), origin=settings.origins["mirrors"])
    endpoints = find_endpoints(reference, rules, nohttps=settings.nohttps, insecure=settings.insecure)
    login = has_login(reference, endpoints[-1], settings)
    return Upstream(reference.name, [_door(each, reference, settings) for each in endpoints], has_login=login)


def has_login(reference: Reference, itself: Endpoint, settings: Settings) -> bool:
    """Whether the user seems to have an account at the registry itself; no helper is asked."""
    variables = itself.host == reference.api_host
    return may_find(itself.host, settings.environ, _home(settings), itself.repository, variables=variables)


def connect_itself(reference: Reference, settings: Settings) -> Registry:
    """A client for the reference's registry alone, whatever mirrors there are."""
    itself = find_endpoints(reference, (), nohttps=settings.nohttps, insecure=settings.insecure)[-1]
    return _door(itself, reference, settings).registry


def resolve_digest(reference: Reference, settings: Settings) -> Digest:
    """What the tag names now, by HEAD: the digest of an index or manifest. Raises RegistryError."""
    with connect(reference, settings) as upstream:
        return upstream.resolve(reference.tag_or_digest).descriptor.digest


def find_image(
    reference: Reference,
    platform: Platform,
    known: Known | None,
    upstream: Upstream,
    caches: tuple[Cache, ...],
    share: tuple[str, ...] = (),
) -> Found:
    """Have the manifest and config of what the reference names in the cache; ask upstream for what is missing.

    known: what the reference is known to name; else the tag is looked up. caches: all tiers; the last two are the
    shared and the private one. share: see settings. Raises RegistryError, UnsupportedImage, InvalidImage,
    IntegrityError, CacheError.
    """
    top, tier = _place(reference, known, upstream, caches, share)
    if tier.root == caches[-1].root:
        upstream.use_login()
    readable = readable_tiers(tier, caches)

    def read(descriptor: Descriptor) -> Manifest | Index:
        return _document(descriptor, upstream, tier, readable)

    def runs_on(manifest: Manifest) -> Platform:
        return _config(reference, manifest, upstream, tier, readable).platform

    with _named(reference):
        chosen, manifest = choose_manifest(top, platform, read, runs_on)
    config = _config(reference, manifest, upstream, tier, readable)
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidImage(
            f"{reference}: the config names {len(config.diff_ids)} layers, the manifest {len(manifest.layers)}"
        )
    if known is None and reference.digest is None:
        ref = Ref(f"{reference.name}:{reference.tag}", str(top.digest), top.media_type, top.size, time.time())
        try:
            write_ref(tier, reference.name, str(reference.tag), ref)
        except CacheError:
            pass  # it only saves the next one a HEAD
    return Found(top, chosen.digest, manifest, config, tier)


def _place(
    reference: Reference, known: Known | None, upstream: Upstream, caches: tuple[Cache, ...], share: tuple[str, ...]
) -> tuple[Descriptor, Cache]:
    """What the reference names, and the tier in which its parts belong.

    Somebody with an account asks without it first, also for what is known: the same bytes may be public under one name
    and private under another, and only what anybody can have under this name is everybody's. Where nobody can be
    asked, it is private.
    """
    shared, private = caches[-2:]
    if known is not None and (known.cache.root == private.root or not upstream.has_login):
        return Descriptor("", known.digest, 0), private if known.cache.root == private.root else shared
    try:
        resolved = upstream.resolve(str(known.digest) if known is not None else reference.tag_or_digest)
    except (RegistryUnavailable, RateLimited, ImageNotFound):
        if known is None:
            raise
        return Descriptor("", known.digest, 0), private
    is_shared = any(covers(pattern, reference.name) for pattern in share)
    is_private = (resolved.private or upstream.private) and not is_shared
    return resolved.descriptor, private if is_private else shared


def readable_tiers(tier: Cache, caches: tuple[Cache, ...]) -> tuple[Cache, ...]:
    """Where parts of an image of this tier may come from.

    A private image may use what is shared. A shared one uses nothing private: whoever pushes a public manifest can
    name a layer that only somebody's credentials can see, and it would become everybody's.
    """
    others = tuple(cache for cache in caches[:-1] if cache.root != tier.root)
    return (tier, *others)


def _document(descriptor: Descriptor, upstream: Upstream, tier: Cache, readable: tuple[Cache, ...]) -> Manifest | Index:
    """A manifest or index, from a cache or upstream; kept in the tier, unless it is no manifest at all."""
    digest = descriptor.digest
    kept = read_blob((tier,), digest)
    data = kept or read_blob(readable, digest) or upstream.manifest(digest)

    def keep() -> None:
        if kept is None:
            write_blob(tier, digest, data)

    try:
        document = parse_manifest(data, descriptor.media_type)
    except UnsupportedImage:
        keep()  # asking for it again would cost quota again
        raise
    keep()
    return document


def _config(
    reference: Reference, manifest: Manifest, upstream: Upstream, tier: Cache, readable: tuple[Cache, ...]
) -> ImageConfig:
    descriptor = manifest.config
    digest = descriptor.digest
    kept = read_blob((tier,), digest)
    data = kept or read_blob(readable, digest)
    if data is None:
        if descriptor.size > MAX_SIZE:
            raise InvalidImage(f"{reference}: a config of {descriptor.size} bytes")
        sink = Memory()
        upstream.fetch(descriptor, sink)
        data = bytes(sink.data)
    with _named(reference):
        config = ImageConfig.parse(data)
    if kept is None:
        write_blob(tier, digest, data)
    return config


@contextmanager
def _named(reference: Reference) -> Iterator[None]:
    """Have an error of a pure parser say whose document it was."""
    try:
        yield
    except (InvalidImage, UnsupportedImage) as error:
        raise type(error)(f"{reference}: {error.message}", hint=error.hint) from None


def _door(endpoint: Endpoint, reference: Reference, settings: Settings) -> Door:
    """Variables of the environment name an account for the registry that the user means, for no mirror of it, and for
    no other place that registries.conf names instead.
    """
    environ = settings.environ
    registry = Registry(
        endpoint.host,
        scheme=endpoint.scheme,
        credentials=partial(
            find_credentials,
            endpoint.host,
            environ,
            _home(settings),
            endpoint.repository,
            variables=endpoint.host == reference.api_host,
        ),
        user_agent=f"hpcc/{__version__}",
        ca_files=ca_files(endpoint.host, settings),
        sudo_user=environ.get("SUDO_USER", "") if os.geteuid() == 0 else "",
    )
    return Door(registry, endpoint.repository, endpoint.for_tags, endpoint.for_digests)


def ca_files(host: str, settings: Settings) -> tuple[str, ...]:
    """The certificates to trust beside the system's: the setting's, and those of certs.d (containers-certs.d(5))."""
    found = [settings.ca_file] if settings.ca_file else []
    own = settings.environ.get("XDG_CONFIG_HOME") or os.path.join(_home(settings), ".config")
    for top in (os.path.join(own, "containers"), "/etc/containers", "/etc/docker"):
        directory = os.path.join(top, "certs.d", host)
        try:
            found += [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".crt")]
        except OSError:
            continue
    return tuple(found)


def _home(settings: Settings) -> str:
    return settings.environ.get("HOME", "")
