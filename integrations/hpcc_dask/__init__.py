"""Dask workers in containers, on one machine or a cluster.

from hpcc_dask import HPCCCluster
with HPCCCluster(image="docker://ghcr.io/dask/dask:2026.8.0", n_workers=4) as cluster, cluster.get_client() as client:
    client.submit(sum, [1, 2]).result()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc_dask.cluster import HPCCCluster
    from hpcc_dask.plugin import HPCCPlugin
    from hpcc_dask.tasks import Done, TaskFailed, map, run
    from hpcc_dask.worker import HPCCWorker

_HOMES = {
    "Done": "tasks",
    "HPCCCluster": "cluster",
    "HPCCPlugin": "plugin",
    "HPCCWorker": "worker",
    "TaskFailed": "tasks",
    "map": "tasks",
    "run": "tasks",
}
__all__ = ["Done", "HPCCCluster", "HPCCPlugin", "HPCCWorker", "TaskFailed", "map", "run"]


def __getattr__(name: str) -> object:
    """Imported when it is first used: Dask's own imports take a moment."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpcc_dask' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpcc_dask.{_HOMES[name]}"), name)
