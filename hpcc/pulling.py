"""A cache miss: ask the registry, fetch, convert, publish. By one process for all that want the image.

reference --HEAD--> digest --GET--> manifest, config --> layers, in parallel: blob -> pack --> SIF
"""

import time
from collections.abc import Callable

from hpcc.cache.flight import Tell, single_flight
from hpcc.cache.index import add_to_index
from hpcc.cache.layout import Cache
from hpcc.cache.temporary import sweep
from hpcc.errors import (
    AccessDenied,
    CacheError,
    HpccError,
    InvalidImage,
    PolicyError,
    RateLimited,
    RegistryUnavailable,
)
from hpcc.local import Image
from hpcc.lookup import (
    Wanted,
    find_cached,
    known_digests,
    origin_of,
    pin_for_run,
    tiers,
)
from hpcc.making import Material, locking_of, make_sif
from hpcc.oci.platform import match_order
from hpcc.oci.reference import Reference
from hpcc.progress import SILENT, Progress, Telling
from hpcc.registry.upstream import Offline, Upstream
from hpcc.settings import Settings
from hpcc.sources.docker import Found, connect, find_image, readable_tiers
from hpcc.sources.signatures import check_signed, needs_signature
from hpcc.sources.standing import note_standing, refuse_early


def pull_image(wanted: Wanted, settings: Settings, progress: Progress = SILENT) -> Image:
    """The image, from a cache if it is there by now, else from its registry, published in the cache.

    Idempotent; safe to call from any number of processes at once. Raises HpccError.
    """
    began = time.time()
    uri, reference, platform = wanted
    caches = tiers(settings)
    shared, private = caches[-2:]
    upstream = open_upstream(reference, settings)
    name = f"{reference.canonical} {platform}"

    def look() -> Image | None:
        return find_cached(wanted, settings, since=began)

    def alone(cache: Cache, work: Callable[[Tell], Image]) -> Image:
        return single_flight(cache, name, look, work, locking_of(settings), on_wait=waiting)

    def work(tell: Tell) -> Image:
        seen = Telling(progress, tell)
        for tier in (shared, private):
            sweep(tier.path("tmp"))  # also what a process left from which we take over
        try:
            return fetch(seen)
        except AccessDenied:
            if not upstream.has_login or upstream.private:
                raise
            upstream.use_login()  # what a mirror, or the registry a while ago, showed to everybody, it does not now
            return fetch(seen)

    def fetch(progress: Progress) -> Image:
        found, source = ask(wanted, upstream, settings, progress)
        check_policy(reference, found, source, settings)
        if not settings.keep_blobs and settings.origins.get("keep_blobs") == "default":
            progress.info("The cache lies in a small home directory, so no layers are kept: see `hpcc cache tiers`")
        if upstream.problem is not None:
            progress.warning(f"{upstream.problem.message}; asked without an account.")
        if found.config.architecture and found.config.platform not in match_order(platform):
            progress.warning(f"{uri} is an image for {found.config.platform}, not for {platform}")
        image = make_sif(_material(wanted, found, settings), source, settings, progress, waiting)
        pin_for_run(reference, found.top.digest, settings)
        try:
            add_to_index(found.tier, reference, found.digest, found.manifest.media_type)
        except CacheError as error:  # it is derived, and the image is there
            progress.warning(error.message)
        return image

    def find_out(tell: Tell) -> Image:
        """What may be private is first asked for under a lock of the user's own; what is public then by one for all."""
        return alone(shared, work) if is_public(reference, upstream, settings) else work(tell)

    def waiting(holder: str) -> None:
        progress.info(f"Waiting for {holder}, who pulls {uri}")

    try:
        # The name of what may be private goes into no lock that others see.
        return alone(private, find_out) if upstream.has_login else alone(shared, work)
    except (InvalidImage, PolicyError) as error:  # said deep in a parser, which knows neither the image nor whom to ask
        said = error.message if uri in error.message or str(reference) in error.message else f"{uri}: {error.message}"
        hint = error.hint or "The image is broken as it was pushed; tell whoever made it."
        raise type(error)(said, hint=hint) from None
    except (RateLimited, RegistryUnavailable) as error:
        note_standing(upstream, shared, private, error)
        raise
    finally:
        progress.close()
        upstream.close()


def open_upstream(reference: Reference, settings: Settings) -> Upstream:
    """Whom to ask for an image: nobody where the settings say so."""
    upstream = connect(reference, settings)
    if settings.offline:
        return Offline(reference.name, "hpcc is offline: --offline, or HPCC_OFFLINE", has_login=upstream.has_login)
    if settings.pull == "never":
        return Offline(reference.name, "--pull never", has_login=upstream.has_login)
    return upstream


def is_public(reference: Reference, upstream: Upstream, settings: Settings) -> bool:
    """Whether anybody can have what the reference names; False where nobody can tell now."""
    shared, private = tiers(settings)[-2:]
    try:
        if settings.pull != "always":
            refuse_early(upstream, shared, private)
        return not upstream.resolve(reference.tag_or_digest).private
    except HpccError:
        return False  # `ask` meets it again, and says so


def ask(wanted: Wanted, upstream: Upstream, settings: Settings, progress: Progress) -> tuple[Found, Upstream]:
    """What the reference names now, and whom to fetch it from. Where a registry does not answer, or refuses: what the
    cache has, however old, with a warning that says its age; the registry's error where it has nothing. Not so where
    the settings want it looked up always.
    """
    _, reference, platform = wanted
    caches = tiers(settings)
    shared, private = caches[-2:]
    always = settings.pull == "always"
    known = next(known_digests(reference, caches, settings), None)
    try:
        if not always:
            refuse_early(upstream, shared, private)
    except (RegistryUnavailable, RateLimited) as error:
        return _make_do(wanted, upstream, settings, error, progress)
    problem: HpccError | None = None
    try:
        return find_image(reference, platform, known, upstream, caches, settings.share), upstream
    except (RegistryUnavailable, RateLimited) as error:
        problem = error
    finally:
        note_standing(upstream, shared, private, problem)
    if always:
        raise problem
    return _make_do(wanted, upstream, settings, problem, progress)


def _make_do(
    wanted: Wanted, upstream: Upstream, settings: Settings, problem: HpccError, progress: Progress
) -> tuple[Found, Upstream]:
    """What the caches have of the reference, however old; `problem` where they have nothing.

    Layers may still come from a registry that only refuses manifests: they count nowhere.
    """
    _, reference, platform = wanted
    caches = tiers(settings)
    nobody = Offline(reference.name, problem.message, has_login=upstream.has_login, problem=problem)
    for known in known_digests(reference, caches, settings, stale=True):
        try:
            found = find_image(reference, platform, known, nobody, caches)
        except HpccError as error:
            if error is problem:
                continue
            raise
        age = f", as it was {_span(known.age)} ago" if known.age is not None else ""
        progress.warning(f"{problem.message.rstrip('.')}. Using what the cache has{age}.")
        return found, upstream if isinstance(problem, RateLimited) else nobody
    raise problem


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def check_policy(reference: Reference, found: Found, source: Upstream, settings: Settings) -> None:
    """PolicyError for an image that is larger than the settings allow, or not signed as they want it."""
    if needs_signature(reference.name, settings):
        readable = readable_tiers(found.tier, tiers(settings))
        check_signed(reference, (found.top.digest, found.digest), source, found.tier, readable, settings)
    size = sum(layer.size for layer in found.manifest.layers)
    if settings.max_image and size > settings.max_image:
        raise PolicyError(
            f"{reference}: its layers have {size / 1e6:,.0f} MB, this site allows {settings.max_image / 1e6:,.0f} MB",
            hint="Use a smaller image (many have a -slim tag), or ask your administrator (the setting max_image).",
        )


def _material(wanted: Wanted, found: Found, settings: Settings) -> Material:
    return Material(
        wanted.uri,
        origin_of(wanted.reference, found.digest, wanted.platform, settings),
        found.config,
        found.manifest.layers,
        found.tier,
        readable_tiers(found.tier, tiers(settings)),
    )
