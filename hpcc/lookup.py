"""Find a docker:// image in the caches without asking anybody.

    tag  --fresh ref-->  index or manifest  --platform-->  manifest digest  --converter-->  SIF

Everything on this way is small and was verified when it came; a blob is hashed again. What is missing, stale, damaged
or not to be trusted is a miss.
"""

from __future__ import annotations

import os
import time

from hpcc.cache.blobs import read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Known, Ref, read_ref, read_run_ref, write_run_ref
from hpcc.compressors import converter_id
from hpcc.errors import CacheError, HpccError, PolicyError, UnsupportedImage
from hpcc.local import Image, open_local
from hpcc.oci.choice import choose_manifest
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor, Manifest, parse_manifest
from hpcc.oci.platform import Platform
from hpcc.oci.reference import Reference, covers
from hpcc.origin import Origin
from hpcc.progress import SILENT, Progress
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpcc.oci.manifest import Index


def tiers(settings: Settings) -> tuple[Cache, ...]:
    """The caches, in the order in which they are looked up: libraries, shared, private."""
    roots = (*settings.library_path, settings.cache_dir, settings.private_dir)
    return tuple(Cache(root, settings.trusted_users, settings.trusted_groups) for root in roots)


class Wanted(NamedTuple):
    """What a user asks for: `uri` as it was written, and what that means here."""

    uri: str
    reference: Reference  # with the digest that hpcc.lock gives it, if any
    platform: Platform

    @classmethod
    def parse(cls, uri: str, settings: Settings, *, arch: str | None = None, progress: Progress = SILENT) -> Wanted:
        """What `uri` means, by the lock file found upward from here, or from HPCC_PROJECT, if the site allows it.

        Raises InvalidReference; UsageError for no platform, or where the settings insist on a lock that does not have
        it; SettingsError for a damaged lock; PolicyError.
        """
        from hpcc.lockfile import locked

        def skipped(path: str, why: str) -> None:
            progress.warning(f"{path} is not believed: {why}")

        # Workflow engines pull elsewhere: Snakemake in its prefix, which projects share.
        project = settings.environ.get("HPCC_PROJECT") or "."
        reference = locked(Reference.parse(uri), project, frozen=settings.frozen, on_skipped=skipped)
        allowed = settings.allowed_registries
        if allowed and not any(covers(pattern, reference.name) for pattern in allowed):
            raise PolicyError(
                f"{reference.name}: this site does not allow images from there",
                hint=f"Allowed are: {', '.join(allowed)} (the setting allowed_registries).",
            )
        return cls(uri, reference, Platform.parse(arch) if arch else Platform.host())


def find_cached(wanted: Wanted, settings: Settings, *, since: float | None = None) -> Image | None:
    """The image from a cache, or None. Sends nothing. For `since` see known_digests.

    UnsupportedImage where no platform matches.
    """
    uri, reference, platform = wanted
    caches = tiers(settings)
    for digest, _, _ in known_digests(reference, caches, settings, since=since):
        chosen = choose_cached(caches, digest, wanted)
        if chosen is None:
            continue
        if settings.signed and not _is_signed(reference, (digest, chosen), caches, settings):
            continue
        found = open_cached(caches, origin_of(reference, chosen, platform, settings), uri)
        if found is not None:
            pin_for_run(reference, digest, settings)
            return found
    return None


def _is_signed(
    reference: Reference, digests: tuple[Digest, ...], caches: tuple[Cache, ...], settings: Settings
) -> bool:
    """Whether the site takes an image as it stands in the caches: one that needs no signature, or has one there."""
    from hpcc.sources.signatures import is_signed_in_cache, needs_signature

    return not needs_signature(reference.name, settings) or is_signed_in_cache(reference, digests, caches, settings)


def origin_of(reference: Reference, manifest_digest: Digest, platform: Platform, settings: Settings) -> Origin:
    """What the SIF of this image is made from, and by which converter."""
    return Origin(reference.name, str(manifest_digest), str(platform), converter_id(settings.compression))


def known_digests(
    reference: Reference,
    caches: tuple[Cache, ...],
    settings: Settings,
    *,
    stale: bool = False,
    since: float | None = None,
) -> Iterator[Known]:
    """What the reference is known to name without asking, best first.

    Its own digest; what its tag has meant before in this job or workflow run; what somebody found it to mean, not
    longer ago than the settings allow, or after `since` (seconds since the epoch), newest first. With stale, however
    long ago.
    """
    if reference.digest is not None:
        for cache in caches:
            if read_blob((cache,), reference.digest) is not None:
                yield Known(reference.digest, cache)
        return
    tag, run, now = str(reference.tag), run_of(settings), time.time()
    refs = [(cache, ref) for cache in caches if (ref := read_ref(cache, reference.name, tag))]
    refs.sort(key=lambda each: abs(now - each[1].checked_at))
    pinned = read_run_ref(caches[-1], run, reference.name, tag) if run else None
    if pinned is not None:
        # In the tier of the ref that says the same; if the tag has moved since, wherever the image still is.
        refs = [(cache, ref) for cache, ref in refs if ref.digest == pinned.digest] or [
            (cache, pinned) for cache in caches if read_blob((cache,), Digest.parse(pinned.digest)) is not None
        ]
    ttl = float("inf") if stale or pinned is not None else _ttl(settings)
    for cache, ref in refs:
        age = now - ref.checked_at
        if abs(age) < ttl or (since is not None and since <= ref.checked_at <= now):
            yield Known(Digest.parse(ref.digest), cache, age)


def _ttl(settings: Settings) -> float:
    if settings.offline or settings.pull in ("missing", "never"):
        return float("inf")
    return -1.0 if settings.pull == "always" else settings.ttl


def run_of(settings: Settings) -> str:
    """The name, for a cache, of the job or workflow run that this is part of; "" for none."""
    environ = settings.environ
    run = environ.get("HPCC_RUN_ID")
    if not run and environ.get("SLURM_JOB_ID"):
        run = f"slurm {environ.get('SLURM_CLUSTER_NAME', '')} {environ['SLURM_JOB_ID']}"
    if not run:
        return ""
    from hashlib import sha256

    return sha256(run.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def pin_for_run(reference: Reference, digest: Digest, settings: Settings) -> None:
    """Let the tag mean the same until the job or workflow run ends. Idempotent. Never fails a run.

    In the private tier: a run is one user's, and so is what is removed there when it is old.
    """
    run = run_of(settings)
    if not run or reference.digest is not None:
        return
    private, name, tag = tiers(settings)[-1], reference.name, str(reference.tag)
    if read_run_ref(private, run, name, tag) is None:
        try:
            write_run_ref(private, run, Ref(f"{name}:{tag}", str(digest), "", 0, time.time()))
        except (CacheError, OSError):
            pass  # a read-only or full disk


def choose_cached(caches: tuple[Cache, ...], digest: Digest, wanted: Wanted) -> Digest | None:
    """The digest of the manifest for the wanted platform that `digest` leads to, as far as the caches know."""
    try:
        return choose_within(caches, digest, wanted.platform)[0].digest
    except Miss:
        return None
    except UnsupportedImage as error:
        raise UnsupportedImage(f"{wanted.reference}: {error.message}", hint=error.hint) from None


def choose_within(
    caches: tuple[Cache, ...], digest: Digest, platform: Platform
) -> tuple[Descriptor, Manifest, dict[Digest, tuple[Descriptor, Manifest | Index]]]:
    """The manifest for the platform that `digest` leads to, and all documents that were read on the way, as they are.

    Raises Miss for a blob that the caches do not have; UnsupportedImage.
    """
    documents: dict[Digest, tuple[Descriptor, Manifest | Index]] = {}

    def blob(digest: Digest) -> bytes:
        data = read_blob(caches, digest)
        if data is None:
            raise Miss
        return data

    def read(descriptor: Descriptor) -> Manifest | Index:
        data = blob(descriptor.digest)
        parsed = parse_manifest(data)
        documents[descriptor.digest] = (Descriptor(parsed.media_type, descriptor.digest, len(data)), parsed)
        return parsed

    def runs_on(manifest: Manifest) -> Platform:
        from hpcc.oci.config import ImageConfig

        return ImageConfig.parse(blob(manifest.config.digest)).platform

    return *choose_manifest(Descriptor("", digest, 0), platform, read, runs_on), documents


class Miss(Exception):
    """A manifest that no cache has."""


def open_cached(caches: tuple[Cache, ...], origin: Origin, uri: str) -> Image | None:
    """The SIF under the origin's key, if one is there, whole, owned by somebody to trust, and really that key's."""
    for cache in caches:
        for fd, path in _candidates(cache, origin.key):
            try:
                image = open_local(path, name=uri, fd=fd, cache=cache.root)
            except HpccError:
                os.close(fd)
                continue
            if image.key == origin.key:
                return image
            os.close(fd)
    return None


def _candidates(cache: Cache, key: str) -> Iterator[tuple[int, str]]:
    for fd in cache.open_each(cache.sif(key)):
        yield fd, os.readlink(f"/proc/self/fd/{fd}")
