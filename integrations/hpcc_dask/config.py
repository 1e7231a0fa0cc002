"""The section `hpcc:` of Dask's configuration: what a cluster is made with where its maker does not say.

hpcc.yaml beside this module has the defaults. As with dask-jobqueue, a copy with everything in comments is put into
Dask's own directory (~/.config/dask/hpcc.yaml) where there is none, to be edited; a variable sets a value, too:
DASK_HPCC__IMAGE=docker://python:3.12.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import dask.config
import yaml

NAMES = ("image", "binds", "env", "args", "nv", "rocm", "contain", "compat", "python", "pull", "arch", "overlay_env",
         "preflight")  # fmt: skip
"""Options of every cluster of this package, by their names in Python."""


def chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the configured value for each that is None, and for those of NAMES that are not there."""
    names = [*NAMES, *(name for name in given if name not in NAMES)]
    return {name: configured(name) if given.get(name) is None else given[name] for name in names}


def configured(name: str) -> Any:
    """The value of one; `section.name` for one of a section."""
    return dask.config.get(f"hpcc.{name}", None)


def _read() -> None:
    """As dask_jobqueue.config does: once, when a module of clusters is imported."""
    path = os.path.join(os.path.dirname(__file__), "hpcc.yaml")
    dask.config.ensure_file(source=path)
    with open(path, encoding="utf-8") as file:
        dask.config.update_defaults(yaml.safe_load(file))


_read()
