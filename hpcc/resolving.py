"""What a tag names, without its image: by hpcc.lock, by the caches, or by one HEAD, which no registry counts."""

from hpcc.cache.layout import Cache
from hpcc.errors import HpccError, RateLimited, RegistryUnavailable, UsageError
from hpcc.lookup import Wanted, known_digests, pin_for_run, tiers
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference
from hpcc.progress import SILENT, Progress
from hpcc.pulling import open_upstream
from hpcc.settings import Settings
from hpcc.sources.standing import note_standing, refuse_early


def resolve_reference(uri: str, settings: Settings, progress: Progress = SILENT) -> Reference:
    """The reference with its digest, of an index or a manifest: good for all platforms. The tag stays.

    What is known and fresh enough is not asked again. Where a registry does not answer, or refuses: what the caches
    know, however old, with a warning, unless the settings want it looked up always. Raises HpccError.
    """
    if not uri.startswith("docker://"):
        raise UsageError(f"{uri} is no docker:// URI", hint="A file has no tag to be looked up.")
    reference = Wanted.parse(uri, settings, progress=progress).reference
    if reference.digest is not None:
        return reference
    caches = tiers(settings)
    known = next(known_digests(reference, caches, settings), None)
    digest = known.digest if known is not None else _ask(reference, caches, settings, progress)
    pin_for_run(reference, digest, settings)
    return reference._replace(digest=digest)


def _ask(reference: Reference, caches: tuple[Cache, ...], settings: Settings, progress: Progress) -> Digest:
    shared, private = caches[-2:]
    always = settings.pull == "always"
    with open_upstream(reference, settings) as upstream:
        try:
            if not always:
                refuse_early(upstream, shared, private)
            problem: HpccError | None = None
            try:
                return upstream.resolve(reference.tag_or_digest).descriptor.digest
            except (RegistryUnavailable, RateLimited) as error:
                problem = error
                raise
            finally:
                note_standing(upstream, shared, private, problem)
        except (RegistryUnavailable, RateLimited) as error:
            known = next(known_digests(reference, caches, settings, stale=True), None)
            if known is None or always:
                raise
            progress.warning(f"{error.message.rstrip('.')}. Using what the cache knows of {reference}.")
            return known.digest
