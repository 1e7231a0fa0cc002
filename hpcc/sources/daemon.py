"""Images of Docker's daemon: known by their id, else saved to a file of the cache and read there.

The daemon sends manifest and config behind all layers, so the stream is kept on the disk until they are there. Memory
does not grow with the image.
"""

from __future__ import annotations

from contextlib import ExitStack

from hpcc.cache.blobs import read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.room import check_room
from hpcc.errors import HpccError, ImageNotFound, UsageError
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.progress import Progress
from hpcc.records import TYPE_CHECKING
from hpcc.registry.engine import Engine
from hpcc.sources.members import Archive, named, spooled
from hpcc.sources.onhost import OnHost, open_saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpcc.oci.manifest import Descriptor
    from hpcc.settings import Settings


def check_name(name: str) -> None:
    """UsageError for a name without a tag: Docker would take "latest", and save all tags of a name without one."""
    last = name.rpartition("/")[2]
    if ":" not in last and "@" not in name:
        raise UsageError(
            f"docker-daemon:{name} has no tag, and it needs one", hint=f"For example docker-daemon:{name}:latest."
        )


def engine_for(settings: Settings) -> Engine:
    """The daemon that DOCKER_HOST names, else this host's. ImageNotFound where it is elsewhere and hpcc is offline."""
    engine = Engine(settings.environ)
    if settings.offline and not engine.is_local:
        raise ImageNotFound(f"{engine.address} is not asked: hpcc is offline", hint="--offline, or HPCC_OFFLINE.")
    return engine


def known_config(caches: tuple[Cache, ...], digest: Digest) -> OnHost | None:
    """The image of this id as far as the caches know it, which is what its SIF is named by; None where they do not."""
    data = read_blob(caches, digest)
    try:
        config = ImageConfig.parse(data) if data is not None else None
    except HpccError:
        return None
    if config is None or not config.diff_ids:
        return None  # a containerd store's id is a manifest's
    return OnHost(digest, config, (), (), _no_layer)


def _no_layer(layer: Descriptor) -> Iterator[bytes]:
    raise AssertionError(f"{layer.digest} was not asked for")


def saved_image(engine: Engine, name: str, size: int, tier: Cache, stack: ExitStack, progress: Progress) -> OnHost:
    """The image, saved into a temporary of `tier` that is gone when the stack is closed."""
    check_room(tier.root, size, size)
    progress.stage("Saving", size)
    part = progress.part(f"{name}, from Docker", size)
    stack.enter_context(named(f"docker-daemon:{name}", "image"))
    file = stack.enter_context(spooled(engine.export(name), tier, 0, part.advance))
    part.finish()
    return open_saved(Archive(file.fileno()), "")
