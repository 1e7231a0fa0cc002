"""--nv and --rocm by themselves, HPCC_NV=auto: whether the job that this is was given GPUs.

    in a batch job    as the batch system says: a variable that lists its GPUs, and a driver on this host
    elsewhere         a driver on this host

On the way of each run of a workflow: a stat, and a look at the environment.
"""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVERS = {"nv": ("/dev/nvidiactl", "/dev/dxg"), "rocm": ("/dev/kfd",)}  # dxg: in WSL
_BATCH = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID", "FLUX_JOB_ID", "COBALT_JOBID")
_GIVEN = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "GPU_DEVICE_ORDINAL", "SGE_HGR_gpu")
_VISIBLE = {"nv": ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"), "rocm": ("ROCR_VISIBLE_DEVICES",)}
_NONE = ("", "-1", "none", "void", "nodevfiles")  # NoDevFiles is what Slurm says of jobs without a GPU


def is_allotted(kind: str, environ: Mapping[str, str], drivers: Mapping[str, tuple[str, ...]] = DRIVERS) -> bool:
    """Whether a container of this job wants GPUs of this kind, nv or rocm."""
    if not any(os.path.exists(path) for path in drivers[kind]):
        return False
    if not any(environ.get(name) for name in _BATCH):
        return True
    return any(environ.get(name, "").lower() not in _NONE for name in (*_GIVEN, *_VISIBLE[kind]))
