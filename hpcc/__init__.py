"""hpcc: Docker and OCI images on HPC clusters.

import hpcc
image = hpcc.pull("docker://python:3.12")
done = image.run(["-c", "print(1)"], compat=True, capture_output=True, text=True)
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING
from hpcc.version import __version__

if TYPE_CHECKING:
    from typing import Any

    from hpcc.errors import HpccError
    from hpcc.image import open_image
    from hpcc.local import Image
    from hpcc.settings import Settings


__all__ = ["HpccError", "Image", "Settings", "__version__", "open_image", "pull"]


def pull(uri: str, *, arch: str | None = None, settings: Settings | None = None) -> Image:
    """The image that `uri` names, from the cache or, once, from its registry. Raises HpccError."""
    from hpcc.image import open_image
    from hpcc.settings import Settings

    return open_image(uri, settings or Settings.from_environ(), arch=arch)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import hpcc` itself costs nothing."""
    homes = {"HpccError": "errors", "Image": "local", "open_image": "image", "Settings": "settings"}
    if name not in homes:
        raise AttributeError(f"module 'hpcc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpcc.{homes[name]}"), name)
