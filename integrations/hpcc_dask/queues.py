"""dask-jobqueue's classes, without what importing them does to the process.

dask_jobqueue.runner has SIGINT end the interpreter, in whatever imports it: a Ctrl-C that a program, a notebook's stop
button or a pull waits for would no longer be KeyboardInterrupt. So SIGINT is after the import what it was before.
"""

import signal

_before = signal.getsignal(signal.SIGINT)

from dask_jobqueue.htcondor import HTCondorCluster, HTCondorJob  # noqa: E402
from dask_jobqueue.lsf import LSFCluster, LSFJob  # noqa: E402
from dask_jobqueue.oar import OARCluster, OARJob  # noqa: E402
from dask_jobqueue.pbs import PBSCluster, PBSJob  # noqa: E402
from dask_jobqueue.sge import SGECluster, SGEJob  # noqa: E402
from dask_jobqueue.slurm import SLURMCluster, SLURMJob, SLURMRunner  # noqa: E402

if _before is not None and signal.getsignal(signal.SIGINT) is not _before:  # None: not of Python's
    signal.signal(signal.SIGINT, _before)

__all__ = [
    "HTCondorCluster",
    "HTCondorJob",
    "LSFCluster",
    "LSFJob",
    "OARCluster",
    "OARJob",
    "PBSCluster",
    "PBSJob",
    "SGECluster",
    "SGEJob",
    "SLURMCluster",
    "SLURMJob",
    "SLURMRunner",
]
