"""Whether the image's Python and the client's understand each other, told before a worker starts.

Tasks are pickled by one and unpickled by the other: code objects want the same major.minor of Python, and cloudpickle
the same major version. Dask itself only warns of both, and then fails somewhere within a task.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hpcc.errors import CommandNotFound, HpccError, UnsupportedImage
from hpcc.runtime.enter import node_directory
from hpcc.settings import Settings
from hpcc_dask import probe
from hpcc_dask.command import Container, exec_words, variables
from hpcc_dask.images import Pinned

_PATIENCE = 60.0  # seconds that a Python may take to import Dask
_BELONGS = "Pickled tasks of one are nothing that the other can run. "
_OVERLAY = "Take an image with dask and distributed, or have overlay_env=True bring this environment's into it."


class Facts(NamedTuple):
    """What a Python says of itself (probe.py)."""

    python: tuple[int, ...]
    libc: tuple[str, str]
    modules: Mapping[str, str]
    missing: str = ""  # why a module is not in `modules`
    prefix: str = ""
    path: tuple[str, ...] = ()  # sys.path
    stdlib: str = ""

    @property
    def version(self) -> str:
        return ".".join(map(str, self.python))


def parse_facts(text: str) -> Facts:
    """From the last line of what probe.py prints. ValueError, KeyError, TypeError for anything else."""
    said = json.loads(text.strip().rpartition("\n")[2])
    modules = {str(name): str(version) for name, version in said["modules"].items()}
    family, version = said["libc"]
    return Facts(
        tuple(int(part) for part in said["python"]), (str(family), str(version)), modules, str(said["missing"]),
        str(said["prefix"]), tuple(map(str, said["path"])), str(said["stdlib"]),
    )  # fmt: skip


@cache
def own_facts() -> Facts:
    """Of the client: this process."""
    return parse_facts(json.dumps(probe.probe()))  # type: ignore[no-untyped-call]


def facts_of(python: str) -> Facts:
    """Of another Python of this host. HpccError where it does not run."""
    argv = [python, "-I", "-c", _program()]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE)
        return parse_facts(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HpccError(f"{python} does not run: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise HpccError(f"{python} does not run: {last_line(done.stderr)}") from None


def check(image: Pinned, options: Container, settings: Settings | None = None) -> Facts:
    """What the image's Python says, as workers will have it, once it fits the client's. One `hpcc exec`.

    An answer that was good is remembered on this node, for this image and these options. CommandNotFound where there is
    no Python, UnsupportedImage where it does not fit, HpccError with hpcc's own words where the image does not run.
    """
    remembered = _place(image, options, settings or Settings.from_environ())
    found = _read(remembered) if remembered else None
    if found is None:
        found = _ask(image, options)
        judge(image.uri, found, own_facts(), overlaid=bool(options.libraries))
        if remembered:
            _write(remembered, found)
    else:
        judge(image.uri, found, own_facts(), overlaid=bool(options.libraries))
    return found


def judge(uri: str, image: Facts, client: Facts, *, overlaid: bool = False) -> None:
    """UnsupportedImage where workers in the image could not work for the client. Pure."""
    if image.python[:2] != client.python[:2]:
        raise UnsupportedImage(
            f"{uri} has Python {image.version}, and this client is Python {client.version}",
            hint=f"{_BELONGS}Use an image with Python {client.python[0]}.{client.python[1]}, or a client like it.",
        )
    if "distributed" not in image.modules or "dask" not in image.modules:
        if overlaid:
            raise UnsupportedImage(
                f"{uri} cannot use this environment's Dask: {image.missing}",
                hint="It may miss a library; an image with dask and distributed of its own has what they need.",
            )
        raise UnsupportedImage(f"{uri} has no Dask: {image.missing}", hint=_OVERLAY)
    theirs, ours = image.modules.get("cloudpickle", ""), client.modules.get("cloudpickle", "")
    if theirs.partition(".")[0] != ours.partition(".")[0]:
        raise UnsupportedImage(
            f"{uri} has cloudpickle {theirs or '(none)'}, and this client cloudpickle {ours or '(none)'}",
            hint=f"{_BELONGS}Install the same major version on both sides.",
        )


def run_failed(uri: str, python: str, status: int, said: str) -> HpccError:
    """Why `hpcc exec … python` ended, by its own words. Pure."""
    cause = last_line(said)
    if "executable file not found" in said or status == 127:
        return CommandNotFound(
            f"{uri} has no {python}, which a Dask worker needs",
            hint="python= names another in the image; overlay_env= brings packages, and no Python.",
        )
    hint = next((line.partition("HINT:")[2].strip() for line in said.splitlines() if line.startswith("HINT:")), "")
    return HpccError(f"{uri}: {python} ended with status {status}: {cause}", hint=hint)


def last_line(said: str) -> str:
    """What says most: what hpcc ended with, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line.partition("FATAL:")[2].strip() for line in lines if line.startswith("FATAL:")]
    return (fatal or lines or ["it said nothing"])[-1]


def _ask(image: Pinned, options: Container) -> Facts:
    argv = exec_words(options, image.path, [options.python, "-c", _program()])
    environ = {**os.environ, **variables(options)}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environ,
            timeout=_PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HpccError(f"{image.uri}: {options.python} has not imported Dask within {_PATIENCE:.0f} s") from None
    try:
        return parse_facts(done.stdout)
    except (ValueError, KeyError, TypeError):
        raise run_failed(image.uri, options.python, done.returncode, done.stderr or done.stdout) from None


@cache
def _program() -> str:
    return Path(probe.__file__).read_text(encoding="utf-8")


# -- answers that are remembered ----------------------------------------------------------------------------------


def _place(image: Pinned, options: Container, settings: Settings) -> str | None:
    """The file for the answer; None for a directory, which may change, and where there is no place for it."""
    if not image.identity:
        return None
    libraries: Sequence[object] = [
        (path, os.stat(path).st_mtime_ns) for path in options.libraries if os.path.isdir(path)
    ]
    key = repr((image.identity, options, libraries, _program()))
    try:
        directory = node_directory(settings, "dask-v1")
    except HpccError:
        return None
    return os.path.join(directory, hashlib.sha256(key.encode()).hexdigest())


def _read(path: str) -> Facts | None:
    try:
        return parse_facts(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: str, facts: Facts) -> None:
    from hpcc.copy import new_file

    said = {**facts._asdict(), "modules": dict(facts.modules)}
    try:
        with new_file(path, replace=True, mode=0o600) as file:
            file.write(json.dumps(said).encode())
    except HpccError:
        pass  # it is asked again
