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

import dask.config
from distributed.core import Status
from distributed.deploy.utils import nprocesses_nthreads

from hpcc.progress import SILENT, Progress
from hpcc.settings import Settings
from hpcc_dask import job_scripts
from hpcc_dask.config import configured
from hpcc_dask.job_scripts import JobImage
from hpcc_dask.preparing import Request
from hpcc_dask.queues import HTCondorCluster, LSFCluster, OARCluster, PBSCluster, SGECluster, SLURMCluster


class WorkersInImage:
    """Beside a cluster class of dask-jobqueue, before it, with a job_cls of job_scripts. Raises HpccError.

    image to overlay_env: of the containers, as HPCCCluster has them; what is None is as Dask's configuration has it
    (hpcc.yaml). python is the image's. preflight: run that Python here once; False where this host runs no containers.
    lifetime: how long a worker takes tasks: "auto" (a tenth less than the walltime, 15 seconds to 5 minutes), Dask's
    text as "50m", or False. All others are dask-jobqueue's. An asynchronous cluster pulls when it is awaited, aside
    from the loop.
    """

    job_cls: Any
    new_spec: Any  # and others of SpecCluster's
    scale: Any
    scheduler: Any
    scheduler_comm: Any
    status: Any
    worker_spec: Any
    workers: Any

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
        kwargs["processes"] = kwargs.get("processes") or _processes(type(self).job_cls, kwargs)
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
            self.scale(workers)

    async def _correct_state_internal(self) -> None:
        """With workers that go retired first, so that others take what they hold: as in cluster.py."""
        going = [name for name in self.workers if name not in self.worker_spec]
        names = [f"{name}{suffix}" for name in going for suffix in self.new_spec.get("group", ("",))]
        if names and self.status == Status.running and self.scheduler.status == Status.running:
            await self.scheduler_comm.retire_workers(names=names)
        await super()._correct_state_internal()  # type: ignore[misc]


def _processes(job_cls: Any, kwargs: Mapping[str, Any]) -> int:
    """Workers of a job where nothing is said of them, as dask-jobqueue has it: it then forgets to tell the cluster."""
    section = f"jobqueue.{kwargs.get('config_name') or job_cls.default_config_name()}"
    cores = kwargs.get("cores") or dask.config.get(f"{section}.cores", None)
    configured = dask.config.get(f"{section}.processes", None)
    return int(configured or (nprocesses_nthreads(cores)[0] if cores else 1))


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
