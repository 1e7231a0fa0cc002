"""hpcc: Docker and OCI images on HPC clusters.

import hpcc
image = hpcc.pull("docker://python:3.12")
done = image.run(["python3", "-c", "print(1)"], compat=True, capture_output=True, text=True)
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING
from hpcc.version import __version__

if TYPE_CHECKING:
    from typing import Any

    from hpcc.errors import HpccError
    from hpcc.image import open_image
    from hpcc.invoke import command_line
    from hpcc.local import Image
    from hpcc.progress import Progress
    from hpcc.settings import Settings


__all__ = [
    "HpccError", "Image", "Progress", "Settings", "__version__", "command_line", "open_image", "place", "pull",
    "resolve",
]  # fmt: skip


def pull(
    uri: str, *, arch: str | None = None, settings: Settings | None = None, progress: Progress | None = None
) -> Image:
    """The image that `uri` names, from the cache or, once, from its registry. Raises HpccError.

    `progress` is told how far a pull is; by default there are bars in a notebook, and nothing is said elsewhere.
    """
    from hpcc.image import open_image
    from hpcc.settings import Settings

    if progress is None:
        from hpcc.notebook import suited

        progress = suited()
    return open_image(uri, settings or Settings.from_environ(), arch=arch, progress=progress)


def resolve(uri: str, *, settings: Settings | None = None, progress: Progress | None = None) -> str:
    """`uri`, a docker:// one, with the digest that its tag names now; no image is pulled. Raises HpccError.

    It asks the registry by HEAD, and only where neither hpcc.lock nor a cache knows it (resolving.py).
    """
    from hpcc.progress import SILENT
    from hpcc.resolving import resolve_reference
    from hpcc.settings import Settings

    return str(resolve_reference(uri, settings or Settings.from_environ(), progress or SILENT))


def place(
    uri: str,
    path: str,
    *,
    link: bool = True,
    replace: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> None:
    """Have the image file that `uri` names at `path`: by a link to the cached one, or without `link` a copy of it.

    Atomic: `path` is whole, or as it was. What is there already and is another image stays, unless `replace`:
    UsageError. A copy, too, of what is in no cache, and where others could not read it (placing.py). Raises HpccError.
    """
    from hpcc.image import open_image
    from hpcc.placing import place_image
    from hpcc.progress import SILENT
    from hpcc.settings import Settings
    from hpcc.throwaway import cache_for

    asked, told = settings or Settings.from_environ(), progress or SILENT
    with cache_for(asked) as effective:
        image = open_image(uri, effective, progress=told)
        in_cache = bool(image.cache) and not asked.disable_cache
        place_image(image, path, effective, told, replace=replace, link=link and in_cache)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import hpcc` itself costs nothing."""
    homes = {"HpccError": "errors", "Image": "local", "open_image": "image", "Settings": "settings",
             "Progress": "progress", "command_line": "invoke"}  # fmt: skip
    if name not in homes:
        raise AttributeError(f"module 'hpcc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpcc.{homes[name]}"), name)
