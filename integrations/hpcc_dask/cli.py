"""`dask hpcc worker` and `dask hpcc cluster`: Dask's command line with an image.

It is imported whenever `dask` is, for its help: all but click where it is used.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from hpcc.errors import EX_FAILURE, HpccError, UsageError

_QUEUES = {"slurm": "SLURM", "pbs": "PBS", "lsf": "LSF", "sge": "SGE", "oar": "OAR", "htcondor": "HTCondor"}
_OF_QUEUES = ("cores", "memory", "walltime", "queue", "account", "project")
_OF_ONE_MACHINE = ("nthreads", "memory_limit")
_WIDTH = {"max_content_width": 80, "help_option_names": ["-h", "--help"]}
_COMMON = (
    click.option("--bind", "-B", multiple=True, metavar="SRC[:DEST[:ro]]", help="Bind a path of the host's."),
    click.option("--env", multiple=True, metavar="NAME", help="Have this variable of the host's in a clean image."),
    click.option("--nv", is_flag=True, default=None, help="NVIDIA's GPUs."),
    click.option("--rocm", is_flag=True, default=None, help="AMD's GPUs."),
    click.option("--contain", is_flag=True, default=None, help="Home, /tmp and environment are not the host's."),
    click.option("--compat", is_flag=True, default=None, help="As Docker would."),
    click.option("--python", metavar="PATH", help="The image's Python.  [default: python3]"),
    click.option("--pull", metavar="WHEN", help="missing, newer, always or never."),
    click.option("--arch", metavar="ARCH", help="The image's architecture."),
    click.option("--overlay-env", metavar="DIR", help="An environment whose packages the image gets."),
)


@click.group(context_settings=_WIDTH)
def hpcc() -> None:
    """Dask's workers in images, as `hpcc exec` runs them.

    What is not said here is as Dask's configuration has it, in hpcc.yaml.
    """


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@hpcc.command(context_settings={**_WIDTH, "ignore_unknown_options": True})
@click.argument("image")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[ADDRESS] [OPTIONS OF DASK WORKER]")
@_common
@click.option("--scheduler-file", type=click.Path(), help="Where the scheduler has written its address.")
@click.option("--local-directory", type=click.Path(), help="Where the worker spills to; writable in the image.")
def worker(
    image: str, words: tuple[str, ...], scheduler_file: str | None, local_directory: str | None, **given: Any
) -> None:
    """Become a worker in IMAGE, of the scheduler at ADDRESS.

    Other options are those of `dask worker`. Example:

    \b
      dask hpcc worker docker://daskdev/dask tcp://10.0.0.1:8786 --nthreads 4
    """
    from hpcc_dask.command import WORKER, variables, worker_words
    from hpcc_dask.preparing import Request

    with _told():
        request = Request("dask hpcc worker", _options(image, given))
        paths, writable = list(words), []
        if scheduler_file:
            paths += ["--scheduler-file", os.path.abspath(scheduler_file)]
            writable.append(os.path.dirname(os.path.abspath(scheduler_file)))
        if local_directory:
            paths += ["--local-directory", os.path.abspath(local_directory)]
            writable.append(os.path.abspath(local_directory))
            os.makedirs(local_directory, exist_ok=True)
        found = request.container._replace(writable=tuple(writable))
        argv = worker_words(found, request.prepare().path, WORKER, paths)
        os.execve(argv[0], argv, {**os.environ, **variables(found)})


@hpcc.command(context_settings=_WIDTH)
@click.argument("image")
@_common
@click.option("--n-workers", type=int, default=1, show_default=True, help="Workers, or jobs of them.")
@click.option("--adapt", metavar="MIN:MAX", help="As many workers as there is work for.")
@click.option("--nthreads", type=int, help="Threads of a worker.")
@click.option("--memory-limit", metavar="SIZE", help="Memory of a worker.")
@click.option("--on", "jobs", type=click.Choice(list(_QUEUES)), help="Workers are jobs of this queueing system.")
@click.option("--cores", type=int, help="Cores of a job.")
@click.option("--memory", metavar="SIZE", help="Memory of a job.")
@click.option("--walltime", metavar="TIME", help="Of a job.")
@click.option("--queue", metavar="NAME", help="Queue or partition of a job.")
@click.option("--account", metavar="NAME", help="Account of a job.")
@click.option("--project", metavar="NAME", help="Project of a job, where the queue has that word for it.")
@click.option("--scheduler-file", type=click.Path(), help="Write the address here; the file goes with the cluster.")
def cluster(
    image: str, n_workers: int, adapt: str | None, jobs: str | None, scheduler_file: str | None, **given: Any
) -> None:
    """A scheduler here, and workers in IMAGE, on this machine or as jobs.

    It runs until Ctrl-C. Examples:

    \b
      dask hpcc cluster docker://daskdev/dask --n-workers 4
      dask hpcc cluster docker://daskdev/dask --on slurm --cores 8 --memory 16GB
    """
    with _told():
        sizes = {name: given.pop(name) for name in (*_OF_QUEUES, *_OF_ONE_MACHINE)}
        options = _options(image, given)
        limits = _limits(adapt)
        wrong = [name for name in (_OF_ONE_MACHINE if jobs else _OF_QUEUES) if sizes[name] is not None]
        if wrong:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            raise UsageError(
                f"{names}: not {'with' if jobs else 'without'} --on", hint="--cores and --memory go with it."
            )
        more = {name: value for name, value in sizes.items() if value is not None}
        made = _cluster_class(jobs)(n_workers=0 if limits else n_workers, **options, **more)
    with _told(), made, _address_in(scheduler_file, made.scheduler_address):
        if limits:
            made.adapt(minimum=limits[0], maximum=limits[1])
        click.echo(f"Scheduler at: {made.scheduler_address}")
        click.echo(f"Dashboard at: {made.dashboard_link}")
        _wait_for_a_signal()


def _cluster_class(jobs: str | None) -> Any:
    if jobs is None:
        from hpcc_dask.cluster import HPCCCluster

        return HPCCCluster
    import hpcc_dask.jobqueue

    return getattr(hpcc_dask.jobqueue, f"HPCC{_QUEUES[jobs]}Cluster")


def _options(image: str, given: dict[str, Any]) -> dict[str, Any]:
    """By the names that clusters have for them; None for what was not said. UsageError."""
    names = given.pop("env")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(f"--env {missing[0]}: there is no such variable here", hint="It takes the name alone.")
    env = {name: os.environ[name] for name in names} or None
    return {"image": image, "binds": list(given.pop("bind")) or None, "env": env, **given}


def _limits(adapt: str | None) -> tuple[int, int] | None:
    if adapt is None:
        return None
    low, colon, high = adapt.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise UsageError(f"--adapt {adapt}: MIN:MAX is wanted", hint="--adapt 0:10")
    return int(low), int(high)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of hpcc as those of a command line."""
    try:
        yield
    except HpccError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        click.echo(f"dask hpcc: {error.message}{hint}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"dask hpcc: {where}{error.strerror or error}", err=True)
        raise SystemExit(EX_FAILURE) from None


@contextmanager
def _address_in(path: str | None, address: str) -> Iterator[None]:
    """The file, as Client(scheduler_file=…) reads it, for as long as this lasts. Atomic."""
    if not path:
        yield
        return
    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="utf-8") as file:
        json.dump({"type": "Scheduler", "address": address}, file)
    os.replace(new, path)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)


def _wait_for_a_signal() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(1):
        pass
