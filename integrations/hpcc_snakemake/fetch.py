"""Have the images of a workflow where Snakemake looks for them: several at a time, and again where that helps.

Each image is pulled once, into the cache, whatever else pulls it at the same time; in the prefix there are links.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from hpcc.beside import path_beside, write_options
from hpcc.errors import (
    EX_TEMPFAIL,
    CacheError,
    HpccError,
    ImageNotFound,
    RateLimited,
    RegistryUnavailable,
    UsageError,
    place_hint,
)
from hpcc.image import open_image
from hpcc.lookup import Wanted, find_cached
from hpcc.placing import BROKEN, GONE, IMAGE, OTHER, look_at, place_image
from hpcc.progress import Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc_snakemake.resolve import Container

AT_A_TIME = 3  # images; each is fetched and converted by as many threads as there are processors
_REST = 61.0  # a registry that cannot be reached is left alone for a minute (hpcc.sources.standing)
_SOON = 5.0


class State(NamedTuple):
    """How it stands with an image: ready, cached (a link is all that is missing), missing, broken (half of it is
    there), gone (a link to nothing), other (something else is in its place). digest: "" where that is not known.
    """

    state: str
    digest: str = ""


Reporter = Callable[[Container], Progress]


def state_of(container: Container, settings: Settings) -> State:
    """Asks no registry. HpccError for a reference that does not parse, or that the site does not allow."""
    place = look_at(container.path)
    if container.is_file:  # also a directory, and what only Apptainer runs
        return State("ready" if os.path.exists(container.path) else "missing")
    if place.kind == IMAGE and (container.options is None or os.path.exists(path_beside(container.path))):
        return State("ready", place.reference.partition("@")[2])
    if place.kind in (BROKEN, GONE, OTHER):
        return State(place.kind)
    if not container.uri.startswith("docker://"):
        return State("missing")
    offline = settings.replace(offline=True)
    wanted = Wanted.parse(container.uri, offline)
    image = find_cached(wanted, offline)
    if image is None:
        return State("missing", str(wanted.reference.digest or ""))
    os.close(image.rootfs.fd)
    return State("cached", image.reference.partition("@")[2])


def fetch_all(
    containers: Sequence[Container], settings: Settings, report: Reporter, *, replace: bool, patience: float
) -> list[tuple[Container, HpccError]]:
    """Fetch them; those that could not be, in their order. `patience`: seconds for which a registry is asked again."""
    failed: dict[int, HpccError] = {}
    deadline = time.monotonic() + patience
    pool = ThreadPoolExecutor(AT_A_TIME)
    try:
        running: dict[Future[None], int] = {
            pool.submit(_fetch, each, settings, report(each), replace, deadline): number
            for number, each in enumerate(containers)
        }
        for future in as_completed(running):
            error = future.exception()
            if isinstance(error, HpccError):
                failed[running[future]] = error
            elif error is not None:
                raise error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever is interrupted does not wait for downloads
    return [(containers[number], error) for number, error in sorted(failed.items())]


def _fetch(container: Container, settings: Settings, progress: Progress, replace: bool, deadline: float) -> None:
    while True:
        try:
            fetch(container, settings, progress, replace=replace)
            return
        except HpccError as error:
            wait = pause_after(error)
            if wait is None or time.monotonic() + wait > deadline:
                raise
            progress.warning(f"{error.message.rstrip('.')}. Trying again in {wait:.0f} s")
            time.sleep(wait)
        finally:
            progress.close()


def pause_after(error: HpccError) -> float | None:
    """Seconds after which it may be tried again; None where that does not help."""
    if error.exit_code != EX_TEMPFAIL:
        return None
    if isinstance(error, RateLimited) and error.wait is not None:
        return error.wait + 1
    return _REST if isinstance(error, RateLimited | RegistryUnavailable) else _SOON


def fetch(container: Container, settings: Settings, progress: Progress, *, replace: bool) -> None:
    """Have one image in its place. Idempotent, atomic. HpccError."""
    if container.is_file:
        raise ImageNotFound(f"{container.uri} is a file that is not there", hint="Rules name it themselves.")
    try:
        os.makedirs(os.path.dirname(container.path), exist_ok=True)
    except OSError as error:
        raise CacheError(f"cannot make {error.filename}: {error.strerror}", hint=place_hint(error)) from None
    if container.options is not None:
        write_options(container.path, container.options)
    image = open_image(container.uri, settings, progress=progress)
    try:
        place_image(image, container.path, settings, progress, replace=replace, link=True)
    except UsageError as error:  # what is there was put there by somebody
        raise UsageError(error.message, hint="Replace it with --update, or remove it.") from None
    finally:
        os.close(image.rootfs.fd)
