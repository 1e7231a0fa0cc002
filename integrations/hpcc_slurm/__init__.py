"""hpcc for Slurm: `hpcc slurm sbatch`, `srun` and `salloc`, and jobs from Python.

import hpcc_slurm
job = hpcc_slurm.submit("train.sh", image="docker://python:3.12", compat=True, sbatch={"array": "0-9", "time": 10})
code = job.wait(timeout=600)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcc_slurm.job import Job
    from hpcc_slurm.submitting import submit

__all__ = ["Job", "submit"]


def __getattr__(name: str) -> object:
    """Imported when it is first used: the command line does not need it."""
    if name == "Job":
        from hpcc_slurm.job import Job

        return Job
    if name == "submit":
        from hpcc_slurm.submitting import submit

        return submit
    raise AttributeError(f"module 'hpcc_slurm' has no attribute {name!r}")
