"""Dask on batch queues, with workers in an image: dask-jobqueue's clusters, and what theirs has beside.

    cluster = HPCCSLURMCluster("docker://…", cores=8, memory="16 GB", walltime="01:00:00")
    cluster.scale(jobs=10)

The image is pulled and pinned where the cluster is made, before there is a scheduler or a job; jobs get its path, and
ask no registry. Another queue is one more class of three lines here, and one in job_scripts.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dask_jobqueue.htcondor import HTCondorCluster
from dask_jobqueue.lsf import LSFCluster
from dask_jobqueue.oar import OARCluster
from dask_jobqueue.pbs import PBSCluster
from dask_jobqueue.sge import SGECluster
from dask_jobqueue.slurm import SLURMCluster

from hpcc.progress import SILENT, Progress
from hpcc.settings import Settings
from hpcc_dask import job_scripts
from hpcc_dask.config import configured
from hpcc_dask.job_scripts import JobImage
from hpcc_dask.preparing import Request


class WorkersInImage:
    """Beside a cluster class of dask-jobqueue, before it, with a job_cls of job_scripts. Raises HpccError.

    image to overlay_env: of the containers, as HPCCCluster has them; what is None is as Dask's configuration has it
    (hpcc.yaml). python is the image's. preflight: run that Python here once; False where this host runs no containers.
    lifetime: how long a worker takes tasks: "auto" (a tenth less than the walltime, 15 seconds to 5 minutes), Dask's
    text as "50m", or False. All others are dask-jobqueue's. An asynchronous cluster pulls when it is awaited, aside
    from the loop.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        n_workers: int = 0,
        binds: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        nv: bool | None = None,
        rocm: bool | None = None,
        contain: bool | None = None,
        compat: bool | None = None,
        python: str | None = None,
        pull: str | None = None,
        arch: str | None = None,
        overlay_env: str | os.PathLike[str] | bool | None = None,
        preflight: bool | None = None,
        lifetime: Any = None,
        settings: Settings | None = None,
        progress: Progress = SILENT,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        given = {
            "image": image, "binds": binds, "env": env, "args": args, "nv": nv, "rocm": rocm, "contain": contain,
            "compat": compat, "python": python, "pull": pull, "arch": arch, "overlay_env": overlay_env,
            "preflight": preflight,
        }  # fmt: skip
        self._request, self._progress = Request(type(self).__name__, given, settings=settings), progress
        self.image = JobImage(self._request.uri, self._request.container)
        self._later = n_workers if asynchronous else 0
        if not asynchronous:
            self._have_image()
        super().__init__(  # type: ignore[call-arg]
            n_workers=0 if asynchronous else n_workers, image=self.image, asynchronous=asynchronous,
            lifetime=configured("jobqueue.lifetime") if lifetime is None else lifetime, **kwargs,
        )  # fmt: skip

    def _have_image(self) -> None:
        self.image.path = self._request.prepare(self._progress).path

    async def _start(self) -> None:
        if not self.image.path:
            await asyncio.to_thread(self._have_image)
        await super()._start()  # type: ignore[misc]
        if self._later:
            workers, self._later = self._later, 0
            self.scale(workers)  # type: ignore[attr-defined]


class HPCCSLURMCluster(WorkersInImage, SLURMCluster):
    job_cls: Any = job_scripts.SLURM


class HPCCPBSCluster(WorkersInImage, PBSCluster):
    job_cls: Any = job_scripts.PBS


class HPCCLSFCluster(WorkersInImage, LSFCluster):
    job_cls: Any = job_scripts.LSF


class HPCCSGECluster(WorkersInImage, SGECluster):
    job_cls: Any = job_scripts.SGE


class HPCCOARCluster(WorkersInImage, OARCluster):
    job_cls: Any = job_scripts.OAR


class HPCCHTCondorCluster(WorkersInImage, HTCondorCluster):
    job_cls: Any = job_scripts.HTCondor
