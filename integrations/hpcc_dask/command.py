"""The command line that runs Dask's programs in an image, as a list of words; quoting is the caller's. Pure.

    /…/bin/hpcc exec --job-env --bind … -- /…/IMAGE.sif python3 -m distributed.cli.dask_worker …

--job-env stands there always: a site or a user may have asked for a clean environment by a variable, and a worker needs
DASK_* and a writable /dev/shm all the same. Values of variables are not on it: `variables` has them for the environment
of who starts it, since they may be secrets, and --env would split them at commas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hpcc.errors import UsageError
from hpcc.invoke import option_words, program

SCHEDULER, SPEC, WORKER = (f"distributed.cli.dask_{name}" for name in ("scheduler", "spec", "worker"))
"""Modules for `worker_words`."""


class Container(NamedTuple):
    """How Dask's processes run in an image. Frozen; the same for each of them."""

    binds: tuple[str, ...] = ()  # SRC[:DEST[:ro]], as --bind reads them
    env: tuple[tuple[str, str], ...] = ()  # variables in the image
    nv: bool = False
    rocm: bool = False
    contain: bool = False
    compat: bool = False
    writable: tuple[str, ...] = ()  # directories of the host's at their own paths: local_directory
    libraries: tuple[str, ...] = ()  # overlay_env: directories of the client's, read-only, which Python searches first
    args: tuple[str, ...] = ()  # further words of `hpcc exec`
    python: str = "python3"  # in the image


def container(
    *,
    binds: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    python: str = "python3",
    writable: Sequence[str] = (),
    libraries: Sequence[str] = (),
    **flags: bool,
) -> Container:
    """From what a user gives: nv, rocm, contain and compat are the flags. UsageError for what is none of its kind."""
    for name, value in (("binds", binds), ("args", args), ("writable", writable), ("libraries", libraries)):
        if isinstance(value, str):
            raise UsageError(f"{name}={value!r}: a list of strings is wanted", hint=f"{name}=[{value!r}]")
    for name in flags:
        if name not in ("nv", "rocm", "contain", "compat"):
            raise UsageError(f"workers in images have no option {name}=", hint='args=["--…"] has any of `hpcc exec`.')
    pairs = tuple((_name(name), str(value)) for name, value in (env or {}).items())
    return Container(
        tuple(binds), pairs, writable=tuple(writable), libraries=tuple(libraries), args=tuple(args), python=python,
        **{name: bool(value) for name, value in flags.items()},
    )  # fmt: skip


def exec_words(options: Container, sif: str, command: Sequence[str]) -> list[str]:
    """`hpcc exec … SIF command`, good from any directory and with any PATH."""
    flags = {name: getattr(options, name) for name in ("nv", "rocm", "contain", "compat")}
    binds = [f"{quoted(path)}:{quoted(path)}:ro" for path in options.libraries]
    binds += [*options.binds, *(f"{quoted(path)}:{quoted(path)}" for path in options.writable)]  # over what they lie in
    return [*program(), "exec", "--job-env", *option_words({**flags, "bind": binds}), *options.args, "--", sif,
            *command]  # fmt: skip


def python_words(options: Container, sif: str) -> list[str]:
    """The image's Python in the image: what dask-jobqueue's `python=` and SSHCluster's `remote_python` stand for."""
    return exec_words(options, sif, [options.python])


def worker_words(options: Container, sif: str, module: str, args: Sequence[str]) -> list[str]:
    """`hpcc exec … SIF python3 -m module args`."""
    return [*python_words(options, sif), "-m", module, *args]


def variables(options: Container) -> dict[str, str]:
    """What the environment of such a command line needs: hpcc has HPCCENV_NAME in the container as NAME."""
    env = dict(options.env)
    if options.libraries:
        env["PYTHONPATH"] = ":".join([*options.libraries, *filter(None, (env.get("PYTHONPATH"),))])
    return {f"HPCCENV_{name}": value for name, value in env.items()}


def quoted(path: str) -> str:
    """A path as --bind reads it."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _name(name: str) -> str:
    if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
        raise UsageError(f"{name!r} is no name of a variable", hint="Letters, digits and _, no digit first.")
    return name
