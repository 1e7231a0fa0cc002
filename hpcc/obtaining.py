"""Images that are named by an agent, docker:// excepted: looked up, then from the cache, or converted, or fetched.

    docker-archive, oci, oci-archive, docker-daemon    layers on this host --> SIF by this converter, in the cache
    http, https, oras, library                         a SIF that somebody else made, kept as a blob of the cache

What a run looks up each time is small: a manifest or config, whose digest is the name in the cache. So an archive that
was changed is another image, and one that was moved or copied the same.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from hpcc.compressors import converter_id
from hpcc.errors import IntegrityError, InvalidImage, PolicyError, UnsupportedImage
from hpcc.lookup import open_cached, tiers
from hpcc.oci.platform import Platform, match_order
from hpcc.origin import Origin
from hpcc.progress import SILENT, Progress
from hpcc.records import TYPE_CHECKING
from hpcc.sources.agents import Named
from hpcc.sources.onhost import OnHost, open_layout, open_saved

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcc.artifacts import File
    from hpcc.cache.layout import Cache
    from hpcc.local import Image
    from hpcc.settings import Settings


_MADE_ELSEWHERE = frozenset(("http", "https", "library", "oras"))
_NO_IMAGE = "It should be a SIF, a squashfs file, or an archive of docker save or OCI. Is it perhaps a page about one?"


def obtain(
    uri: str,
    named: Named,
    settings: Settings,
    *,
    arch: str | None = None,
    progress: Progress = SILENT,
    on_cached: Callable[[], None] = lambda: None,
) -> Image:
    """The image that `named`, which was written as `uri`, means. Idempotent; safe from any number of processes at once.

    on_cached: called where the cache has it already. Raises HpccError; what is made or fetched stands whole in the
    cache, or nothing of it does.
    """
    platform = Platform.parse(arch) if arch else Platform.host()
    if named.agent == "shub":
        raise UnsupportedImage(
            f"{uri}: Singularity Hub was closed in 2021, and shub:// leads nowhere",
            hint="Look for the image in a registry (docker://) or a library (library://), or ask whoever made it.",
        )
    try:
        with ExitStack() as stack:
            if named.agent in _MADE_ELSEWHERE:
                return _fetched(uri, named, platform, settings, stack, progress, on_cached)
            if named.agent == "docker-daemon":
                found = _ask_daemon(uri, named.place, settings, stack, progress)
            else:
                found = _look_up(named, platform, settings, stack, progress)
            if not isinstance(found, OnHost):
                on_cached()
                return found
            return _convert(uri, named.agent, found, platform, settings, progress, on_cached)
    except (IntegrityError, UnsupportedImage, PolicyError) as error:
        if named.place in error.message:
            raise
        raise type(error)(f"{uri}: {error.message}", hint=error.hint) from None
    finally:
        progress.close()


def _fetched(
    uri: str,
    named: Named,
    platform: Platform,
    settings: Settings,
    stack: ExitStack,
    progress: Progress,
    on_cached: Callable[[], None],
) -> Image:
    """A SIF as it came; of an archive, the SIF that it gives."""
    from hpcc.local import open_local
    from hpcc.sources.members import looks_like_archive, opened_archive

    fd, path = fetched_file(uri, named, platform, settings, progress, on_cached)
    if named.agent in ("http", "https") and looks_like_archive(fd):
        stack.callback(os.close, fd)
        archive = stack.enter_context(
            opened_archive(f"/proc/self/fd/{fd}", tier_of(settings), settings.max_layer, progress, uri)
        )
        agent = "docker-archive" if "manifest.json" in archive else "oci-archive"
        found = open_saved(archive, "") if agent == "docker-archive" else open_layout(archive, "", platform)
        return _convert(uri, agent, found, platform, settings, progress, lambda: None)
    try:
        return open_local(path, name=uri, fd=fd)
    except InvalidImage as error:
        os.close(fd)
        raise type(error)(f"{uri}: what it gives is no image: {error.message}", hint=_NO_IMAGE) from None


def fetched_file(
    uri: str,
    named: Named,
    platform: Platform,
    settings: Settings,
    progress: Progress,
    on_cached: Callable[[], None] = lambda: None,
) -> File:
    """What http, https, library or oras give, as it is: from a cache, or fetched into one. HpccError."""
    from hpcc.artifacts import known, parse_address

    address = parse_address(uri, named, platform, settings)
    found = next(known(address, tiers(settings), settings), None)
    if found is not None:
        on_cached()
        return found[1]
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    from hpcc.fetching import fetch

    return fetch(address, platform, settings, progress)


def _look_up(named: Named, platform: Platform, settings: Settings, stack: ExitStack, progress: Progress) -> OnHost:
    """The image on this host; what is opened is closed with the stack."""
    agent, place, ref = named
    if agent == "oci":
        from hpcc.sources.directory import Directory
        from hpcc.sources.members import named as telling

        directory = stack.enter_context(Directory(place))
        stack.enter_context(telling(place, "OCI layout"))
        return open_layout(directory, ref, platform)
    from hpcc.sources.members import opened_archive

    archive = stack.enter_context(opened_archive(place, tier_of(settings), settings.max_layer, progress))
    return open_layout(archive, ref, platform) if agent == "oci-archive" else open_saved(archive, ref)


def _ask_daemon(uri: str, name: str, settings: Settings, stack: ExitStack, progress: Progress) -> OnHost | Image:
    """The cached image, where the daemon's id names one; else what the daemon has of it, saved."""
    from hpcc.sources.daemon import check_name, engine_for, known_config, saved_image

    check_name(name)
    engine = engine_for(settings)
    inspected = engine.inspect(name)
    known = known_config(tiers(settings), inspected.id)
    image = _cached(uri, "docker-daemon", known, settings) if known is not None else None
    return image or saved_image(engine, name, inspected.size, tier_of(settings), stack, progress)


def tier_of(settings: Settings) -> Cache:
    """Where what came from this user's own files and daemon is kept: a group's cache gets nothing of it, since nobody
    knows whether all the group may read it.
    """
    shared, private = tiers(settings)[-2:]
    try:
        return private if shared.is_shared() else shared
    except OSError:
        return shared  # not made yet, so it will be this user's own


def _origin(agent: str, found: OnHost, settings: Settings) -> Origin:
    return Origin(agent, str(found.digest), str(found.config.platform), converter_id(settings.compression))


def _cached(uri: str, agent: str, found: OnHost, settings: Settings) -> Image | None:
    return open_cached(tiers(settings), _origin(agent, found, settings), uri)


def _convert(
    uri: str,
    agent: str,
    found: OnHost,
    platform: Platform,
    settings: Settings,
    progress: Progress,
    on_cached: Callable[[], None],
) -> Image:
    image = _cached(uri, agent, found, settings)
    if image is not None:
        on_cached()
        return image
    if found.config.architecture and found.config.platform not in match_order(platform):
        progress.warning(f"{uri} is an image for {found.config.platform}, not for {platform}")
    size = sum(layer.size for layer in found.layers)
    if settings.max_image and size > settings.max_image:
        raise PolicyError(
            f"its layers have {size / 1e6:,.0f} MB, this site allows {settings.max_image / 1e6:,.0f} MB",
            hint="Use a smaller image, or ask your administrator (the setting max_image).",
        )
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    from hpcc.cache.blobs import write_blob
    from hpcc.cache.temporary import sweep
    from hpcc.making import Material, make_sif
    from hpcc.sources.docker import readable_tiers

    tier, caches, origin = tier_of(settings), tiers(settings), _origin(agent, found, settings)
    sweep(tier.path("tmp"))
    for digest, data in found.documents:
        write_blob(tier, digest, data)
    material = Material(uri, origin, found.config, found.layers, tier, readable_tiers(tier, caches))
    return make_sif(
        material,
        found.read,
        settings,
        progress,
        lambda holder: progress.info(f"Waiting for {holder}, who converts {uri}"),
    )
