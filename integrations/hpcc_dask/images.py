"""The image of a cluster's workers: looked up, pulled and pinned once, before a worker starts.

Workers get the path of the SIF, which is the same however the tag moves meanwhile: a worker that is replaced, or comes
by adapt, runs the image of the first. On a cluster the path must be on a filesystem that the nodes have, as caches are.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from hpcc.errors import HpccError, UsageError
from hpcc.image import note_use, open_image
from hpcc.progress import SILENT, Progress
from hpcc.settings import KEYS, Settings


class Pinned(NamedTuple):
    """An image that is there. reference: registry/repository@digest, and digest: both "" for what hpcc did not make."""

    uri: str  # as the user called it
    path: str  # the SIF, squashfs or directory that it runs from
    reference: str
    digest: str
    identity: str = ""  # of these very bytes; "" for a directory, which may change


def pin(
    uri: str,
    *,
    pull: str | None = None,
    arch: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> Pinned:
    """Have the image, from a library, a cache, or its registry; as `hpcc exec` finds it. Blocks while it is pulled.

    pull: missing, newer, always or never, for this one. Raises HpccError, as `hpcc pull` does, with the hint as a note;
    then no worker was started.
    """
    try:
        return _pin(uri, _settings(pull, settings), arch, progress)
    except HpccError as error:
        raise explained(error) from None


def _pin(uri: str, settings: Settings, arch: str | None, progress: Progress) -> Pinned:
    if settings.disable_cache:
        raise UsageError("workers cannot run from a cache that is disabled", hint="`hpcc pull` makes a file of one.")
    image = open_image(uri, settings, arch=arch, progress=progress)
    if image.rootfs.fd >= 0:
        os.close(image.rootfs.fd)
    note_use(image)  # so that garbage collection spares it for a while
    return Pinned(
        uri, image.path, image.reference, image.reference.partition("@")[2], image.key or image.rootfs.identity
    )


def _settings(pull: str | None, settings: Settings | None) -> Settings:
    found = settings or Settings.from_environ()
    if pull is None:
        return found
    try:
        return found.replace(pull=KEYS["pull"].parse(pull))
    except ValueError as error:
        raise UsageError(f"pull={pull!r}: {error} is wanted") from None


def explained(error: HpccError) -> HpccError:
    """It, with what to do next where Python shows it: below the message, once."""
    if error.hint and error.hint not in getattr(error, "__notes__", ()):
        error.add_note(error.hint)
    return error
