"""Dask workers in containers, on one machine or a cluster.

from hpcc_dask import HPCCCluster
with HPCCCluster(image="docker://ghcr.io/dask/dask:2026.8.0", n_workers=4) as cluster, cluster.get_client() as client:
    client.submit(sum, [1, 2]).result()

HPCCSLURMCluster and its like run the workers as jobs of a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc_dask.cluster import HPCCCluster
    from hpcc_dask.jobqueue import (
        HPCCHTCondorCluster,
        HPCCLSFCluster,
        HPCCOARCluster,
        HPCCPBSCluster,
        HPCCSGECluster,
        HPCCSLURMCluster,
    )
    from hpcc_dask.plugin import HPCCPlugin
    from hpcc_dask.runner import HPCCRunner
    from hpcc_dask.ssh import remote_python
    from hpcc_dask.tasks import Done, TaskFailed, map, run
    from hpcc_dask.worker import HPCCWorker

_HOMES = {
    "Done": "tasks",
    "HPCCCluster": "cluster",
    "HPCCHTCondorCluster": "jobqueue",
    "HPCCLSFCluster": "jobqueue",
    "HPCCOARCluster": "jobqueue",
    "HPCCPBSCluster": "jobqueue",
    "HPCCPlugin": "plugin",
    "HPCCRunner": "runner",
    "HPCCSGECluster": "jobqueue",
    "HPCCSLURMCluster": "jobqueue",
    "HPCCWorker": "worker",
    "TaskFailed": "tasks",
    "map": "tasks",
    "remote_python": "ssh",
    "run": "tasks",
}
__all__ = [
    "Done",
    "HPCCCluster",
    "HPCCHTCondorCluster",
    "HPCCLSFCluster",
    "HPCCOARCluster",
    "HPCCPBSCluster",
    "HPCCPlugin",
    "HPCCRunner",
    "HPCCSGECluster",
    "HPCCSLURMCluster",
    "HPCCWorker",
    "TaskFailed",
    "map",
    "remote_python",
    "run",
]


def __getattr__(name: str) -> object:
    """Imported when it is first used: Dask's own imports take a moment."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpcc_dask' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpcc_dask.{_HOMES[name]}"), name)
