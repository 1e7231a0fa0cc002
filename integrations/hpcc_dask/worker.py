"""One Dask worker in an image, as a process of this host: a member of HPCCCluster, or of any SpecCluster.

    hpcc exec … IMAGE.sif python3 -m distributed.cli.dask_spec SCHEDULER --spec-file /dev/stdin

The specification, with TLS keys in it, goes in by standard input, and the client's configuration by the environment, as
Dask's own LocalCluster inherits it. A worker that has started is one that the scheduler knows: by its own word, not by
a line in a log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import dask.config
from distributed.core import Status, rpc
from distributed.deploy.spec import ProcessInterface
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security

from hpcc.errors import HpccError, UsageError
from hpcc_dask.command import SPEC, Container, variables, worker_words
from hpcc_dask.images import explained
from hpcc_dask.preflight import run_failed

_log = logging.getLogger(__name__)
_ASKED_AGAIN = 0.2  # seconds
_KEPT = 200  # lines of output
_SHOWN = 12  # of them in an error
_ROLES = ("worker", "client")  # a worker connects as both


class Arrivals(SchedulerPlugin):
    """Of a scheduler in this process: which workers it has come to know."""

    name = "hpcc-arrivals"

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Future[str]] = {}

    def of(self, name: Any) -> asyncio.Future[str]:
        """The address of the next worker of this name."""
        future = self._awaited[str(name)] = asyncio.get_running_loop().create_future()
        return future

    def add_worker(self, scheduler: Any, worker: str) -> None:
        future = self._awaited.pop(str(scheduler.workers[worker].name), None)
        if future is not None and not future.done():
            future.set_result(worker)


class HPCCWorker(ProcessInterface):
    """A nanny and its worker in a container.

    sif: the image's path; name: as the scheduler knows it; worker_options: keywords of distributed.Nanny, which go as
    JSON; arrivals: what a scheduler in this process tells, else it is asked; start_timeout: seconds until it must know
    the worker; grace: seconds between TERM and KILL; on_exit: called with this when it ends though nobody has closed
    it. `output` has its last lines.
    """

    def __init__(
        self,
        scheduler: str,
        *,
        sif: str,
        container: Container,
        name: Any = None,
        uri: str = "",
        worker_class: str = "distributed.Nanny",
        worker_options: Mapping[str, Any] | None = None,
        security: Security | None = None,
        arrivals: Arrivals | None = None,
        start_timeout: float = 60.0,
        grace: float = 5.0,
        on_exit: Callable[[HPCCWorker], None] | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self.scheduler, self.name = scheduler, name
        self.uri, self.sif, self.container = uri or sif, sif, container
        self.output: deque[str] = deque(maxlen=_KEPT)
        self.returncode: int | None = None
        self.started = 0.0  # when the scheduler knew it
        self._security = security or Security()
        options = {**sizes, **(worker_options or {}), "name": name}
        self._spec = worker_spec(worker_class, options, self._security)
        self._arrivals, self._timeout, self._grace, self._on_exit = arrivals, start_timeout, grace, on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        """Of `hpcc exec`, or what it has become; the leader of a session of its own."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Until the scheduler knows the worker. HpccError with its last lines where it ends before, or is too slow."""
        try:
            await self._start()
        except BaseException:
            self.status = Status.failed
            await self._end()
            raise
        self.started = monotonic()
        await super().start()
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _start(self) -> None:
        arrival = asyncio.ensure_future(self._arrivals.of(self.name) if self._arrivals else self._ask())
        try:
            self._process = process = await self._spawn()
            self._tasks.append(asyncio.create_task(self._collect(process)))
            ended = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait((arrival, ended), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
            if arrival.done():
                self.address = arrival.result()
            elif process.returncode is not None:
                await asyncio.wait(self._tasks, timeout=1)  # what it said last
                raise self._failed(process.returncode)
            else:
                raise self._too_slow()
        finally:
            arrival.cancel()

    async def _spawn(self) -> asyncio.subprocess.Process:
        argv = worker_words(self.container, self.sif, SPEC, [self.scheduler, "--spec-file", "/dev/stdin"])
        config = dask.config.serialize(dask.config.global_config)
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **variables(self.container), "DASK_INTERNAL_INHERIT_CONFIG": config},
        )  # fmt: skip
        assert process.stdin is not None
        try:
            process.stdin.write(self._spec)
            await process.stdin.drain()
            process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended, and says why
        return process

    async def _collect(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line of more than 64 KiB: its beginning is dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.output.append(text)
            _log.debug("%s: %s", self.name, text)

    async def _ask(self) -> str:
        """Its address, once the scheduler, wherever that is, knows a worker of this name."""
        async with rpc(self.scheduler, connection_args=self._security.get_connection_args("client")) as scheduler:
            while True:
                known = (await scheduler.identity(n_workers=-1))["workers"]
                for address, worker in known.items():
                    if str(worker["name"]) == str(self.name):
                        return str(address)
                await asyncio.sleep(_ASKED_AGAIN)

    async def _watch(self) -> None:
        assert self._process is not None
        self.returncode = await self._process.wait()
        if self.status == Status.running:
            self._reap_group()
            self.status = Status.closed
            self._event_finished.set()
            if self._on_exit:
                self._on_exit(self)

    async def close(self) -> None:
        """TERM, and KILL for what is there still after the grace; nothing of it is left. Idempotent."""
        if self.status not in (Status.closed, Status.failed):
            self.status = Status.closing
        await self._end()
        await super().close()

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            for number, wait in ((signal.SIGTERM, self._grace), (signal.SIGKILL, self._grace)):
                try:
                    process.send_signal(number)
                except ProcessLookupError:
                    break
                if number == signal.SIGKILL:
                    self._reap_group()
                try:
                    await asyncio.wait_for(process.wait(), wait)
                    break
                except TimeoutError:
                    continue
        if process is not None:
            self.returncode = process.returncode
            self._reap_group()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _reap_group(self) -> None:
        """KILL what its session has left: a worker whose nanny was killed, say."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def _failed(self, status: int) -> HpccError:
        said = "\n".join(self.output)
        error = run_failed(self.uri, self.container.python, status, said)
        return explained(_with_lines(error, f"worker {self.name} has not started", self.output))

    def _too_slow(self) -> HpccError:
        error = HpccError(
            f"{self.uri}: the scheduler at {self.scheduler} has not heard of it within {self._timeout:.0f} s",
            hint="Whether the worker reaches that address is a matter of host= and interface=; start_timeout= waits.",
        )
        return explained(_with_lines(error, f"worker {self.name} has not started", self.output))


def worker_spec(worker_class: str, options: Mapping[str, Any], security: Security) -> bytes:
    """What dask_spec reads: JSON, which is YAML. UsageError for an option that is no JSON."""
    options = {**options, **({"security": portable(security)} if security.require_encryption else {})}
    try:
        return json.dumps({"cls": worker_class, "opts": options}).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"options of a worker in an image go there as JSON: {error}") from None


def portable(security: Security) -> dict[str, Any]:
    """What a worker needs of it, keys and certificates in the text: their files may not be in the container."""
    found: dict[str, Any] = {"require_encryption": security.require_encryption}
    names = ["tls_ca_file", *(f"tls_{role}_{part}" for role in _ROLES for part in ("cert", "key")), "tls_ciphers"]
    for name in names:
        value = getattr(security, name, None)
        if value and name != "tls_ciphers" and "\n" not in value:
            try:
                with open(value, encoding="utf-8") as file:
                    value = file.read()
            except OSError as error:
                raise UsageError(f"{name}: cannot read {value}: {error.strerror}") from None
        if value:
            found[name] = value
    return found


def _with_lines(error: HpccError, what: str, output: deque[str]) -> HpccError:
    """The same error, told of one worker, with what that said last."""
    lines = list(output)[-_SHOWN:]
    error.message = "\n    ".join([f"{what}: {error.message}", *lines])
    error.args = (error.message,)
    return error
