"""Dask workers in containers, on one machine or a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc_dask.jobqueue import (
        HPCCHTCondorCluster,
        HPCCLSFCluster,
        HPCCOARCluster,
        HPCCPBSCluster,
        HPCCSGECluster,
        HPCCSLURMCluster,
    )
    from hpcc_dask.runner import HPCCRunner
    from hpcc_dask.ssh import remote_python

_HOMES = {
    "HPCCHTCondorCluster": "jobqueue",
    "HPCCLSFCluster": "jobqueue",
    "HPCCOARCluster": "jobqueue",
    "HPCCPBSCluster": "jobqueue",
    "HPCCRunner": "runner",
    "HPCCSGECluster": "jobqueue",
    "HPCCSLURMCluster": "jobqueue",
    "remote_python": "ssh",
}
__all__ = [
    "HPCCHTCondorCluster",
    "HPCCLSFCluster",
    "HPCCOARCluster",
    "HPCCPBSCluster",
    "HPCCRunner",
    "HPCCSGECluster",
    "HPCCSLURMCluster",
    "remote_python",
]


def __getattr__(name: str) -> object:
    """Imported when it is first used: Dask's own imports take a moment."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpcc_dask' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpcc_dask.{_HOMES[name]}"), name)
