"""`hpcc pull --on slurm:PARTITION`: a whole command of hpcc as a job of one task, which this process waits for.

It becomes srun, so that output, exit status and Ctrl-C are srun's. Not within an allocation that there may be: that is
no login node, and has a partition already.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcc.errors import UsageError
from hpcc_slurm.images import no_slurm, require

_CPUS = ("SRUN_CPUS_PER_TASK", "SLURM_CPUS_PER_TASK")
ALLOCATION = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID", "SLURM_STEPID", "SLURM_NODELIST", "SLURM_JOB_NODELIST")


def run(partition: str, argv: Sequence[str]) -> int:
    """Become srun. UsageError; HpccError where there is no srun."""
    if not partition or partition.startswith("-"):
        raise UsageError("--on slurm needs a partition", hint="hpcc pull --on slurm:PARTITION …; `sinfo` lists them.")
    require("srun")
    words = ["srun", f"--partition={partition}", "--nodes=1", "--ntasks=1", "--job-name=hpcc-pull", "--quiet"]
    words += ["--input=none", "--unbuffered"]
    if not any(name in os.environ for name in _CPUS):
        words.append("--cpus-per-task=2")
    environ = {name: value for name, value in os.environ.items() if name not in ALLOCATION}
    try:
        os.execvpe("srun", [*words, *argv], environ)
    except FileNotFoundError:
        raise no_slurm("srun") from None
