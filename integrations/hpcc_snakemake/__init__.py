"""hpcc for Snakemake 8 and 9: `hpcc snakemake run`, `hpcc snakemake prefetch`, and images with options for Snakefiles.

from hpcc_snakemake import image
rule one:
    container: image("docker://debian:12", compat=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc_snakemake.containers import image

__all__ = ["image"]


def __getattr__(name: str) -> object:
    """Imported when it is first used: the command line does not need it."""
    if name != "image":
        raise AttributeError(f"module 'hpcc_snakemake' has no attribute {name!r}")
    from hpcc_snakemake.containers import image

    return image
