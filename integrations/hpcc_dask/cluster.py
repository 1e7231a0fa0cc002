"""HPCCCluster: a scheduler in this process, and workers in containers of this host."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Generator, Mapping, Sequence
from time import monotonic
from typing import Any

import dask.config
from dask.system import CPU_COUNT
from dask.widgets import get_template
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.deploy.utils import nprocesses_nthreads
from distributed.scheduler import Scheduler
from distributed.security import Security
from distributed.worker_memory import parse_memory_limit

from hpcc.errors import CacheError, HpccError, UsageError, place_hint
from hpcc.progress import SILENT, Progress
from hpcc.runtime.enter import node_directory
from hpcc.settings import Settings
from hpcc_dask.command import container
from hpcc_dask.config import chosen
from hpcc_dask.images import Pinned, explained, pin
from hpcc_dask.overlay import check_libc, overlay
from hpcc_dask.preflight import check
from hpcc_dask.worker import Arrivals, HPCCWorker

_log = logging.getLogger(__name__)
_SETTLED = 300.0  # seconds after which a worker's death is no sign of a fault that comes again


class HPCCCluster(SpecCluster):
    """Workers in containers of one image, on this machine.

    with HPCCCluster(image="docker://ghcr.io/dask/dask:2026.8.0", n_workers=4) as cluster, Client(cluster) as client:

    The image is pulled and pinned first, once, and its Python compared with the client's: HpccError where that fails,
    before a worker starts. What is None is as Dask's configuration has it,
    in hpcc.yaml. Then as LocalCluster: scale, adapt, security, dashboard_address, asynchronous, …

    binds, env, nv, rocm, contain, compat: of the containers, as `hpcc exec` has them; args: further words of it;
    pull: missing, newer, always, never; overlay_env: True, or a directory, brings an environment's packages into an
    image without Dask; python: the image's; local_directory: where workers spill to; worker_options: keywords of
    distributed.Nanny; max_restarts: how often in a row a worker that died is replaced.
    """

    def __init__(
        self,
        image: str | None = None,
        n_workers: int | None = None,
        nthreads: int | None = None,
        memory_limit: Any = "auto",
        *,
        binds: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        nv: bool | None = None,
        rocm: bool | None = None,
        contain: bool | None = None,
        compat: bool | None = None,
        args: Sequence[str] | None = None,
        pull: str | None = None,
        arch: str | None = None,
        overlay_env: str | os.PathLike[str] | bool | None = None,
        python: str | None = None,
        host: str | None = None,
        interface: str | None = None,
        protocol: str | None = None,
        security: Security | bool | None = None,
        scheduler_port: int = 0,
        scheduler_options: Mapping[str, Any] | None = None,
        dashboard_address: str | None = ":8787",
        worker_dashboard_address: str | None = None,
        worker_options: Mapping[str, Any] | None = None,
        local_directory: str | None = None,
        max_restarts: int = 3,
        start_timeout: float = 60.0,
        silence_logs: int | bool = logging.WARNING,
        settings: Settings | None = None,
        progress: Progress = SILENT,
        asynchronous: bool = False,
        **cluster_options: Any,
    ) -> None:
        n_workers, nthreads = _sizes(n_workers, nthreads)
        used = _security(security)
        if host is None and interface is None:
            host = "127.0.0.1"
        protocol = protocol or ("tls://" if used.require_encryption else "tcp://")
        self.image: Pinned | None = None  # once it is there
        self.max_restarts = max_restarts
        self._deaths: dict[Any, int] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        wanted = chosen({
            "image": image, "binds": binds, "env": env, "args": args, "nv": nv, "rocm": rocm, "contain": contain,
            "compat": compat, "python": python, "pull": pull, "arch": arch, "overlay_env": overlay_env,
        })  # fmt: skip
        if not wanted["image"]:
            raise UsageError("HPCCCluster needs an image", hint='image="docker://…", or hpcc.image in hpcc.yaml.')
        self._uri, self._pull, self._arch = os.fspath(wanted["image"]), wanted["pull"], wanted["arch"]
        self._settings, self._progress = settings or Settings.from_environ(), progress
        self._overlay_env = wanted["overlay_env"]
        directory = local_directory or dask.config.get("temporary-directory", None)
        self._directory = os.path.abspath(os.path.expanduser(directory)) if directory else None
        names = ("binds", "env", "args", "python", "nv", "rocm", "contain", "compat")
        self._wanted: dict[str, Any] = {name: wanted[name] for name in names}
        container(**self._wanted)  # so that what is wrong is said before anything is done
        self._worker: dict[str, Any] = {
            "nthreads": nthreads,
            "memory_limit": parse_memory_limit(memory_limit, nthreads, nthreads * n_workers or 1, logger=_log),
            "security": used, "start_timeout": start_timeout, "on_exit": self._on_exit,
            "worker_options": {
                "host": host, "interface": interface, "protocol": protocol, "death_timeout": 60,
                "dashboard": worker_dashboard_address is not None, "dashboard_address": worker_dashboard_address,
                **(worker_options or {}),
            },
        }  # fmt: skip
        scheduler: dict[str, Any] = {
            "cls": Scheduler,
            "options": {
                "host": host, "interface": interface, "protocol": protocol, "port": scheduler_port,
                "security": used, "dashboard": dashboard_address is not None,
                "dashboard_address": dashboard_address, **(scheduler_options or {}),
            },
        }  # fmt: skip
        arrivals = Arrivals()
        self._worker["arrivals"] = arrivals
        scheduler["options"]["plugins"] = [*scheduler["options"].get("plugins", ()), arrivals]
        self._is_prepared = self._is_up = False
        self.status: Status
        if not asynchronous:
            self._prepare()
        worker = {"cls": HPCCWorker, "options": self._worker}
        super().__init__(
            workers=dict.fromkeys(range(n_workers), worker), scheduler=scheduler, worker=worker, security=used,
            asynchronous=asynchronous, silence_logs=silence_logs, **cluster_options,
        )  # fmt: skip

    # -- before a worker starts -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The image, and how it is run, into the workers' options. Blocks. HpccError."""
        try:
            brought = overlay(self._overlay_env)
            image = pin(
                self._uri, pull=self._pull, arch=self._arch, settings=self._settings, progress=self._progress
            )  # fmt: skip
            directory = self._scratch()
            options = container(
                **{**self._wanted, "binds": [*(brought.binds if brought else ()), *self._wanted["binds"]]},
                writable=[directory], libraries=brought.libraries if brought else (),
            )  # fmt: skip
            facts = check(image, options, self._settings)
            if brought is not None:
                check_libc(image.uri, facts, brought)
        except HpccError as error:
            raise explained(error) from None
        self._worker |= {"sif": image.path, "uri": image.uri, "container": options}
        self._worker["worker_options"] = {"local_directory": directory, **self._worker["worker_options"]}
        self.image, self._is_prepared = image, True

    def _scratch(self) -> str:
        """Where workers spill to: a directory that is theirs on both sides, as a container's own /tmp is memory."""
        if self._directory is None:
            return node_directory(self._settings, "dask-scratch")
        try:
            os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"local_directory: cannot make {self._directory}: {error.strerror}", hint=place_hint(error)
            ) from None
        return self._directory

    async def _start(self) -> None:
        if not self._is_prepared:
            await asyncio.to_thread(self._prepare)
        await super()._start()

    def __await__(self) -> Generator[Any, Any, HPCCCluster]:
        return self._awaited().__await__()

    async def _awaited(self) -> HPCCCluster:
        try:
            await _wrapped(super().__await__())
        except BaseException:
            if self.status == Status.created:  # nothing was started
                self.status = Status.closed
            else:
                await self._close()
            raise
        return self

    async def _correct_state_internal(self) -> None:
        """With workers that go retired first, so that others take what they hold: SpecCluster names them by what
        retire_workers takes for addresses, and so ends them with all their results. A worker that cannot start is an
        error of the constructor; later on it is told, and not tried again until somebody scales.
        """
        going = [name for name in self.workers if name not in self.worker_spec]
        if going and self.status == Status.running and self.scheduler.status == Status.running:
            await self.scheduler_comm.retire_workers(names=going)
        try:
            await super()._correct_state_internal()
        except HpccError as error:
            if not self._is_up:
                raise
            for name in [name for name, worker in self.workers.items() if worker.status == Status.failed]:
                self.worker_spec.pop(name, None)
                del self.workers[name]
            self._tell(str(error))
        self._is_up = True

    # -- workers that die -------------------------------------------------------------------------------------------

    def _on_exit(self, worker: HPCCWorker) -> None:
        """A worker has ended, and was not asked to by us."""
        if self.status == Status.running and self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            if worker.name in self.worker_spec and self.scheduler.status == Status.running:
                task = asyncio.ensure_future(self._replace(worker))
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)

    async def _replace(self, worker: HPCCWorker) -> None:
        name, status = worker.name, worker.returncode
        if status == 0:  # somebody has retired it, or its lifetime was over
            self.worker_spec.pop(name, None)
            return
        if monotonic() - worker.started > _SETTLED:
            self._deaths.pop(name, None)
        self._deaths[name] = self._deaths.get(name, 0) + 1
        said = "; ".join(list(worker.output)[-3:])
        if self._deaths[name] > self.max_restarts:
            self.worker_spec.pop(name, None)
            self._tell(f"worker {name} has ended {self._deaths[name]} times, and is not replaced any more: {said}")
            return
        self._tell(f"worker {name} has ended with status {status}, and is replaced: {said}")
        await self._correct_state()

    def _tell(self, text: str) -> None:
        """To get_logs()["Cluster"], and as a warning."""
        import datetime

        self._cluster_manager_logs.append((datetime.datetime.now(), text))
        _log.warning(text)

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        image = self.image.reference or self.image.path if self.image else self._uri
        row = get_template("local_cluster.html.j2").render(
            status=self.status.name, processes=True, cluster_status=cluster_status
        )
        return super()._repr_html_(cluster_status=row + _image_row(image))  # type: ignore[no-any-return]


def _image_row(image: str) -> str:
    import html

    return f'<tr><td style="text-align: left;" colspan="2"><strong>Image:</strong> {html.escape(image)}</td></tr>'


async def _wrapped(awaiting: Generator[Any, Any, Any]) -> None:
    class _Once:
        def __await__(self) -> Generator[Any, Any, Any]:
            return awaiting

    await _Once()


def _security(wanted: Any) -> Security:
    if wanted is True:
        try:
            return Security.temporary()
        except ImportError:
            raise explained(
                UsageError(
                    "security=True makes certificates by the package cryptography", hint="pip install cryptography"
                )
            ) from None
    if wanted and not isinstance(wanted, Security):
        raise UsageError(f"security={wanted!r}: a distributed.Security is wanted, or True for one of its own")
    return wanted or Security()


def _sizes(n_workers: int | None, nthreads: int | None) -> tuple[int, int]:
    """As LocalCluster finds what is not given."""
    if n_workers is None and nthreads is None:
        found: tuple[int, int] = nprocesses_nthreads()
        return found
    if n_workers is None:
        assert nthreads is not None
        return max(1, CPU_COUNT // nthreads), nthreads
    return n_workers, nthreads or max(1, math.ceil(CPU_COUNT / max(1, n_workers)))
