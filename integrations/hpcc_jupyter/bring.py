"""An ipykernel for images that lack it: a directory that is bound into the container, and only read there.

    <data>/hpcc/ipykernel/<version>-<suffix>/          ipykernel and all that it needs, for one Python
                                   /hpcc-complete      last of all

<data> is $XDG_DATA_HOME or ~/.local/share; nodes that run kernels must have it too. <suffix> is that of compiled
modules, which some of those packages have: Python's version, the machine, glibc or musl. The packages are copied from
hpcc's own environment where that is of the same kind, else fetched as wheels by its pip.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib import metadata

from hpcc.errors import CacheError, HpccError, place_hint
from hpcc_jupyter.inside import Python

COMPLETE = "hpcc-complete"
_PATIENCE = 900.0  # seconds for pip
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*(?:;(.*))?")
_SUFFIX = re.compile(r"\.cpython-[A-Za-z0-9_-]+\.so")
_WHEELS = "ipykernel>=6.29,<8"


def bring_ipykernel(python: Python, environ: Mapping[str, str]) -> tuple[str, str]:
    """(directory, version of ipykernel). Made if it is not there yet. HpccError says what is missing.

    Atomic: the directory is whole or absent; two at a time make it twice, and one of them stays.
    """
    if not _SUFFIX.fullmatch(python.suffix):  # the image says so, and it becomes the name of a directory
        raise HpccError(
            f"ipykernel cannot be brought to {python.command} {python.version} of this image, which is no CPython",
            hint="Use an image that has ipykernel, or name another interpreter with --python.",
        )
    home = environ.get("HOME") or os.path.expanduser("~")
    data = os.path.join(environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "hpcc/ipykernel")
    same = sysconfig.get_config_var("EXT_SUFFIX") == python.suffix
    version = _own_version() if same else ""
    name = f"{version or 'wheels'}{python.suffix.removesuffix('.so').replace('.', '-')}"
    path = os.path.join(data, name)
    if not os.path.exists(os.path.join(path, COMPLETE)):
        temporary = f"{path}.{secrets.token_hex(6)}"
        try:
            os.makedirs(data, exist_ok=True)
            os.mkdir(temporary)
            if version:
                _copy(temporary)
            else:
                _fetch(temporary, python, same=same)
            open(os.path.join(temporary, COMPLETE), "x").close()
            if os.path.isdir(path):  # half of one, as something that cleans up may leave it
                os.rename(path, f"{temporary}.old")
                shutil.rmtree(f"{temporary}.old", ignore_errors=True)
            os.rename(temporary, path)
        except OSError as error:
            if not os.path.exists(os.path.join(path, COMPLETE)):
                raise CacheError(f"cannot write {path}: {error.strerror}", hint=place_hint(error)) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path, version or _version_in(path)


def _own_version() -> str:
    try:
        return metadata.version("ipykernel")
    except metadata.PackageNotFoundError:
        return ""


def _version_in(path: str) -> str:
    return next((each.version for each in metadata.distributions(path=[path], name="ipykernel")), "")


def _copy(target: str) -> None:
    """The files of ipykernel and of what it needs, as this environment has them."""
    for dist in _needed("ipykernel"):
        for file in dist.files or ():
            parts = file.parts
            if ".." in parts or "__pycache__" in parts or not parts:  # programs beside it; what Python makes itself
                continue
            source = str(dist.locate_file(file))
            if os.path.isfile(source):
                os.makedirs(os.path.join(target, *parts[:-1]), exist_ok=True)
                shutil.copyfile(source, os.path.join(target, *parts))


def _needed(name: str) -> Iterator[metadata.Distribution]:
    """The distribution and all that it needs on Linux, each once. HpccError for one that is not there."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        wanted = todo.pop()
        key = re.sub(r"[-_.]+", "-", wanted).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            dist = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:
            raise HpccError(
                f"ipykernel needs the Python package {wanted}, which is not installed beside hpcc",
                hint="pip install 'hpcc[jupyter]', into the same environment as hpcc.",
            ) from None
        yield dist
        for text in dist.requires or ():
            match = _REQUIREMENT.match(text)
            if match and _counts(match[2] or ""):
                todo.append(match[1])


def _counts(marker: str) -> bool:
    """Whether a requirement with this marker is one here. `packaging` would know all of them; ipykernel and its kin use
    these: extras, and sys_platform, platform_system, os_name, python_version and implementation names."""
    if "extra" in marker:
        return False
    names = {
        "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
        "python_full_version": platform.python_version(), "platform_system": platform.system(), "os_name": os.name,
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name,
    }  # fmt: skip
    return any(all(_holds(part, names) for part in re.split(r"\band\b", each)) for each in re.split(r"\bor\b", marker))


def _holds(text: str, names: Mapping[str, str]) -> bool:
    match = re.fullmatch(r"\s*\(*\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*[\"']([^\"']*)[\"']\s*\)*\s*", text)
    if match is None or match[1] not in names:
        return True  # one package more does no harm, if it is there
    left, right = names[match[1]], match[3]
    if match[2] in ("==", "!="):
        return (left == right) == (match[2] == "==")
    try:
        mine, other = ([int(part) for part in each.split(".")] for each in (left, right))
    except ValueError:
        return True
    return {"<": mine < other, ">": mine > other, "<=": mine <= other, ">=": mine >= other}[match[2]]


def _fetch(target: str, python: Python, *, same: bool) -> None:
    """Wheels for the image's Python, by pip. HpccError."""
    words = pip_words(target, python)
    why = (
        "ipykernel is not installed beside hpcc"
        if same
        else f"hpcc's own Python is {'.'.join(platform.python_version_tuple()[:2])}, of another kind"
    )
    hint = (
        "pip install 'hpcc[jupyter]' beside hpcc, where Python is of the same version; or an image that has ipykernel; "
        "or a network and pip for hpcc's environment."
    )
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise HpccError(f"pip has not fetched ipykernel within {_PATIENCE:.0f} s", hint=hint) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        last = said[-1].removeprefix("ERROR: ") if said else f"it ended with {done.returncode}"
        raise HpccError(
            f"the image has no ipykernel for its Python {python.version}, {why}, and pip cannot fetch one: {last}",
            hint=hint,
        )
    shutil.rmtree(os.path.join(target, "bin"), ignore_errors=True)


def pip_words(target: str, python: Python) -> list[str]:
    """The command line of pip that fetches wheels, and nothing that has to be built, for that Python."""
    machine = python.suffix.split("-")[2] if python.suffix.count("-") >= 2 else platform.machine()
    libc = "musllinux_1_2" if "musl" in python.suffix else "manylinux_2_28"
    platforms = [f"{libc}_{machine}"]
    if libc != "musllinux_1_2":
        platforms += [f"manylinux_2_17_{machine}", f"manylinux2014_{machine}"]
    words = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", target]
    words += ["--only-binary=:all:", "--no-compile", "--implementation=cp", f"--python-version={python.version}"]
    return [*words, *(f"--platform={each}" for each in platforms), _WHEELS]
