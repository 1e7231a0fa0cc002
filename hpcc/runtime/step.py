"""Which ranks belong together: the tasks of one step, on one node, that start the same image. Pure.

Slurm:  SLURM_JOB_ID, SLURM_STEP_ID, SLURM_STEP_TASKS_PER_NODE ("8(x2),4": of each node in turn), SLURM_NODEID
PMIx:   PMIX_NAMESPACE, and the number on this node from Open MPI or MPICH's Hydra
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PALS_LOCAL_SIZE")


def step_of(environ: Mapping[str, str]) -> str:
    """A name for the step that this process is a rank of, "" where it is none or is alone on its node."""
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    if job and step.isdigit():
        here = tasks_here(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), environ.get("SLURM_NODEID", "0"))
        return f"slurm {job}.{step}" if here > 1 else ""
    namespace = environ.get("PMIX_NAMESPACE", "")
    size = next((environ[name] for name in _LOCAL_SIZES if name in environ), "")
    return f"pmix {namespace}" if namespace and size.isdigit() and int(size) > 1 else ""


def tasks_here(counts: str, node: str) -> int:
    """Tasks of the node with this number, by Slurm's notation; 1 where it does not parse."""
    if not node.isdigit():
        return 1
    left = int(node)
    for part in counts.split(","):
        tasks, _, times = part.partition("(x")
        times = times.removesuffix(")") or "1"
        if not tasks.isdigit() or not times.isdigit():
            return 1
        if left < int(times):
            return int(tasks)
        left -= int(times)
    return 1
