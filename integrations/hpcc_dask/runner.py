"""Dask in one step of Slurm, all of it: `srun -n 8 python3 script.py`, whose task 0 is the scheduler.

    with HPCCRunner("docker://…") as runner, Client(runner) as client: …    # script.py

    task 0    pins the image, and becomes the scheduler, where the script's Python is
    task 1    goes on with the script
    others    become workers in the image: hpcc exec … python3 -m distributed.cli.dask_worker

Without an image each task runs where the script does: `srun -n 8 hpcc exec IMAGE python3 script.py`, for images that
have dask-jobqueue and hpcc. Tasks meet by two files in a directory that all nodes have:

    <directory>/scheduler-<job>.<step>[-<restarts>].json    as Dask writes it; task 0 removes it at its end
    <directory>/image-<job>.<step>[-<restarts>].json        the image's path
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcc.errors import HpccError
from hpcc_dask.command import WORKER, variables, worker_words
from hpcc_dask.preparing import Request
from hpcc_dask.queues import SLURMRunner

_POLL = 0.2  # seconds


class HPCCRunner(SLURMRunner):
    """dask-jobqueue's SLURMRunner with workers in `image`; options are those of HPCCCluster's containers.

    directory: of the files, by default the working directory. nthreads, memory_limit, worker_args: of a worker; threads
    are by default the CPUs that Slurm gave the task. HpccError in task 0 where the image cannot be had: it ends, and
    srun ends the others with `--kill-on-bad-exit`; without, they give up after `patience` seconds.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        directory: str | os.PathLike[str] = ".",
        nthreads: int | None = None,
        memory_limit: str = "auto",
        worker_args: tuple[str, ...] | list[str] = (),
        patience: float = 3600,
        scheduler_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._request = Request("HPCCRunner", {"image": image, **(options or {})}) if image else None
        threads = nthreads or int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
        self._worker = ["--nthreads", str(threads), "--memory-limit", memory_limit, *worker_args]
        self._patience = patience
        step = step_name(os.environ)
        self._pinned = Path(directory) / f"image-{step}.json"
        super().__init__(
            scheduler_file=str(Path(directory) / f"scheduler-{step}.json"),
            scheduler_options=dict(scheduler_options or {"dashboard_address": ":0"}),
            worker_options={"nthreads": threads} if image is None else None, **kwargs,
        )  # fmt: skip

    async def before_scheduler_start(self) -> None:
        for path in (self.scheduler_file, self._pinned):
            path.unlink(missing_ok=True)
        if self._request:
            pinned = await asyncio.to_thread(self._request.prepare)
            new = self._pinned.with_suffix(".new")
            new.write_text(json.dumps({"path": pinned.path}))
            new.replace(self._pinned)

    async def start_scheduler(self) -> None:
        try:
            await super().start_scheduler()
        finally:
            for path in (self.scheduler_file, self._pinned):
                with suppress(OSError):
                    path.unlink()

    async def start_worker(self) -> None:
        """In an image it takes this process's place, so that the step's signals are its own."""
        if not self._request:
            await super().start_worker()
            return
        sif = json.loads(await self._read(self._pinned))["path"]
        await self._read(self.scheduler_file)
        name = str(await self.get_worker_name())
        args = ["--scheduler-file", str(self.scheduler_file.resolve()), "--name", name, *self._worker]
        found = self._request.container
        options = found._replace(writable=(*found.writable, str(self.scheduler_file.resolve().parent)))
        sys.stdout.flush()
        sys.stderr.flush()
        words = worker_words(options, sif, WORKER, args)
        os.execve(words[0], words, {**os.environ, **variables(options)})

    async def get_scheduler_address(self) -> str:
        return str(json.loads(await self._read(self.scheduler_file))["address"])

    async def _read(self, path: Path) -> str:
        """Its text, once it is there and whole."""
        waited = 0.0
        while True:
            with suppress(OSError, ValueError):
                text = path.read_text()
                json.loads(text)
                return text
            if waited > self._patience:
                raise HpccError(
                    f"{path} is not there after {self._patience:.0f} s", hint="Task 0 of the step writes it."
                )
            await asyncio.sleep(_POLL)
            waited += _POLL


def step_name(environ: Mapping[str, str]) -> str:
    """JOB.STEP, and how often the job was restarted: another step of a job must not find this one's files."""
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    name = f"{environ.get('SLURM_JOB_ID', '')}.{environ.get('SLURM_STEP_ID', '')}"
    return name if restarts in ("", "0") else f"{name}-{restarts}"
