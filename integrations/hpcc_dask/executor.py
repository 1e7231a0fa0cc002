"""`hpcc pull --on dask:ADDRESS`: a whole command of hpcc on a worker of a Dask cluster, which this process waits for.

    here                          scheduler       a worker
    a task with the command's words   ->      ->  starts it, as its own user, in this working directory
    prints what comes             <- log events <- its output, line by line
    Ctrl-C                        ->  an Event ->  ends it

The worker needs this installation and the working directory at the same paths, and to run on its host, not in an image.
What it runs travels by value: it needs no hpcc_dask. A worker that is lost half-way: Dask runs the command on another
one, which does no harm, since a pull is whole or not there.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from hpcc.errors import EX_TEMPFAIL, HpccError, UsageError

_PATIENCE = "distributed.comm.timeouts.connect"  # for the scheduler to answer, and for a worker to be there
_OURS = ("HPCC_", "APPTAINER_", "SINGULARITY_")
_SECRET = ("PASSWORD", "TOKEN", "SECRET", "USERNAME")


class Unreachable(HpccError):
    exit_code = EX_TEMPFAIL


def run(address: str, argv: Sequence[str]) -> int:
    """The command's exit status. UsageError; HpccError without Dask, scheduler or worker, or where it cannot start."""
    if not address or address.startswith("-"):
        raise UsageError("--on dask needs a scheduler's address", hint="hpcc pull --on dask:tcp://HOST:8786 …")
    try:
        dask: Any = import_module("distributed")
    except ImportError:
        raise HpccError("Dask is not installed beside hpcc", hint="pip install 'hpcc[dask]'") from None
    patience = import_module("dask.config").get(_PATIENCE)
    schemes: Any = import_module("distributed.comm.registry").backends
    scheme = address.partition("://")[0] if "://" in address else "tcp"
    if scheme not in schemes:
        raise UsageError(f"--on dask:{address}: Dask knows no addresses of {scheme}", hint="tcp://HOST:PORT is one.")
    try:
        directory = os.getcwd()
    except OSError as error:
        raise HpccError(
            f"the working directory cannot be found: {error.strerror}", hint="cd to one that is there."
        ) from None
    try:
        client = dask.Client(address, timeout=patience, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise Unreachable(
            f"no Dask scheduler answers at {address}", hint="`dask scheduler` prints its address when it starts."
        ) from None
    with client:
        return _submit(dask, client, address, argv, directory, patience)


def _submit(dask: Any, client: Any, address: str, argv: Sequence[str], directory: str, patience: Any) -> int:
    try:
        client.wait_for_workers(1, timeout=patience)
    except TimeoutError:
        raise Unreachable(f"the Dask cluster at {address} has no worker", hint="`dask worker` adds one.") from None
    topic = f"hpcc-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, _print)
    task = client.submit(
        _task(), list(argv), sent_variables(os.environ), directory, topic, key=topic, pure=False, retries=0
    )
    try:
        said, status = task.result()
    except KeyboardInterrupt:
        dask.Event(topic, client=client).set()
        task.result()
        raise
    finally:
        client.unsubscribe_topic(topic)
    if said:
        raise HpccError(
            said, hint="Workers need hpcc's installation and the working directory, on a shared filesystem."
        )
    return int(status)


def sent_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """hpcc's own variables, which say where its cache is; none that may be a secret: a task passes the scheduler."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_OURS) and not any(word in name.upper() for word in _SECRET)
    }


def _print(event: tuple[float, Any]) -> None:
    number, text = event[1]
    stream = sys.stderr if number == 2 else sys.stdout
    stream.write(text)
    stream.flush()


def _task() -> Callable[..., tuple[str, int]]:
    """What the worker runs: a function of a function, so that it is sent by value."""

    def run_here(argv: list[str], variables: dict[str, str], cwd: str, topic: str) -> tuple[str, int]:
        """Why it did not start, and its exit status as a shell has it."""
        import os
        import signal
        import socket
        import subprocess
        import threading
        import typing

        import distributed

        dask: typing.Any = distributed
        worker = dask.get_worker()
        ours = ("HPCC_", "APPTAINER_", "SINGULARITY_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | variables
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=environ,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"Dask worker {worker.address} on {socket.gethostname()} cannot run {argv[0]} in {cwd}: {error}", 255

        def forward(number: int, stream: typing.Any) -> None:
            for line in stream:
                worker.log_event(topic, (number, line.decode(errors="replace")))

        pumps = [threading.Thread(target=forward, args=pair) for pair in ((1, process.stdout), (2, process.stderr))]
        for pump in pumps:
            pump.start()
        stop = dask.Event(topic)
        try:
            while process.poll() is None and not stop.is_set() and worker.status.name == "running":
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    pass
        finally:  # also where the scheduler is gone
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            status = process.wait()
            for pump in pumps:
                pump.join()
        return "", 128 - status if status < 0 else status

    return run_here
