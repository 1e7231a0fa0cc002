"""Images with Python, for kernels, of Debian's packages: with ipykernel and without.

bare           python3 and its standard library
python         that, and libstdc++, which pyzmq's wheels need and images for Python have
ipykernel      python3 and python3-ipykernel with its kernelspec in /usr/share/jupyter
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from tests.support.debian import Image, debian_image
from tests.support.images import build_sif

_PACKAGES = {"bare": ("python3",), "python": ("python3", "libstdc++6"), "ipykernel": ("python3", "python3-ipykernel")}


def layers_of(kind: str) -> Image:
    """Layers and config, as a registry has them."""
    return debian_image(*_PACKAGES[kind])


@functools.cache
def sif_of(kind: str) -> Path:
    """The SIF, which every user may read; made once for the session."""
    layers, config = layers_of(kind)
    return build_sif(_directory() / f"{kind}.sif", layers, config["config"])


@functools.cache
def _directory() -> Path:
    top = Path(tempfile.mkdtemp(prefix="hpcc-kernels-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    top.chmod(0o755)
    return top
