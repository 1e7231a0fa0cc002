"""What a URI names, as an image that can be run.

`open_image` is on the way of each run. A local file costs a read of its header; a docker:// URI whose tag is known and
fresh costs a few reads of the cache. Only a miss imports what talks to registries and converts (pulling.py), and only
another agent's name what knows those (obtaining.py).
"""

import os

from hpcc.errors import HpccError, Unknown
from hpcc.local import Image, open_local
from hpcc.origin import AGENTS
from hpcc.progress import SILENT, Progress
from hpcc.settings import Settings


def open_image(uri: str, settings: Settings, *, arch: str | None = None, progress: Progress = SILENT) -> Image:
    """The image that `uri` names: docker://…, another agent's (sources/agents.py), a SIF, a squashfs file, or a
    directory. Raises HpccError.

    What the cache does not have is pulled or read, converted and published there first.
    """
    if uri.startswith("docker://"):
        from hpcc.lookup import Wanted, find_cached

        wanted = Wanted.parse(uri, settings, arch=arch, progress=progress)
        found = find_cached(wanted, settings)
        if found is None:
            from hpcc.sitepath import load_site_packages

            load_site_packages()
            from hpcc.pulling import pull_image

            found = pull_image(wanted, settings, progress)
        return found
    scheme, colon, rest = uri.partition(":")
    if colon and scheme in AGENTS:
        from hpcc.sources.agents import parse_named

        if (named := parse_named(uri)) is not None:
            from hpcc.obtaining import obtain

            return obtain(uri, named, settings, arch=arch, progress=progress)
    if rest.startswith("//") and scheme.replace("-", "").isalnum():
        known = ", ".join(("docker", *sorted(AGENTS)))
        raise Unknown(f"{uri}: hpcc does not know the source {scheme}://", hint=f"It knows {known}, and local images.")
    return _open_link(uri, settings) or open_local(uri)


def _open_link(path: str, settings: Settings) -> Image | None:
    """The SIF of a cache that `path` names, or is a link to, as `pull --name` makes them: the cache's own, so that its
    use is noted, and that it is mounted once whatever its links are called. None for anything else, and for what the
    cache does not trust.
    """
    try:
        directory, name = os.path.split(os.readlink(path))
    except (OSError, ValueError):
        directory, name = os.path.split(path)  # as a Slurm job knows the image
    if not directory.endswith("/sif-v1"):
        return None
    from hpcc.lookup import tiers

    key = name.partition(".")[0]
    for cache in tiers(settings):
        if cache.path("sif-v1") == directory:
            for fd in cache.open_each(os.path.join(directory, name)):
                try:
                    image = open_local(
                        os.path.join(directory, name), name=os.path.abspath(path), fd=fd, cache=cache.root
                    )
                except HpccError:
                    image = None
                if image is not None and image.key == key:
                    return image
                os.close(fd)
    return None


def note_use(image: Image) -> None:
    """Tell garbage collection that a run of a cached image starts. Never fails a run."""
    if image.key:
        from hpcc.cache.layout import Cache

        Cache(image.cache).touch_use(image.key)
