"""overlay_env: the client's packages in an image that has Python, but no Dask.

The directories of an environment are bound read-only at their own paths, and Python in the image searches them first.
That takes the same major.minor of Python, and a libc that the packages' compiled parts were made for.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hpcc.errors import UnsupportedImage, UsageError
from hpcc_dask.command import quoted
from hpcc_dask.preflight import Facts, facts_of, own_facts

_OF_SYSTEM = frozenset(("/", "/usr", "/usr/local"))
_ALIASES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_TAG = re.compile(r"^Tag: [^-\n]+-[^-\n]+-(.+)$", re.MULTILINE)
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")


class Overlay(NamedTuple):
    """What an environment brings along. binds: words for --bind; libraries: for PYTHONPATH; facts: of its Python."""

    binds: tuple[str, ...]
    libraries: tuple[str, ...]
    facts: Facts


def overlay(environment: str | os.PathLike[str] | bool) -> Overlay | None:
    """The environment of this process (True), or that in a directory with bin/python3; None for False. UsageError."""
    if environment is False or environment is None:
        return None
    if environment is True:
        facts = own_facts()
        script = os.path.dirname(os.path.abspath(sys.argv[0]))  # what lies beside it is no environment
        facts = facts._replace(path=tuple(path for path in facts.path if path != script))
    else:
        path = os.path.abspath(os.path.expanduser(os.fspath(environment)))
        python = os.path.join(path, "bin/python3")
        if not os.access(python, os.X_OK):
            raise UsageError(
                f"overlay_env={path!r} has no bin/python3", hint="It names a virtual or conda environment."
            )
        facts = facts_of(python)
    libraries = tuple(dict.fromkeys(path for path in facts.path if _is_of_packages(path, facts)))
    prefix = facts.prefix
    binds: tuple[str, ...] = ()
    if prefix not in _OF_SYSTEM and any(path.startswith(f"{prefix}/") for path in libraries):
        binds = (f"{quoted(prefix)}:{quoted(prefix)}:ro",)  # what packages find by ../.. in a conda environment
    return Overlay(binds, libraries, facts)


def _is_of_packages(path: str, facts: Facts) -> bool:
    """Not the standard library, which the image's Python has, nor an archive."""
    inside = os.path.join(facts.stdlib, "")
    return (
        path.startswith("/")
        and os.path.isdir(path)
        and path != facts.stdlib
        and (not path.startswith(inside) or path.endswith("-packages"))
    )


def check_libc(uri: str, image: Facts, brought: Overlay) -> None:
    """UnsupportedImage where compiled packages of the overlay need another libc than the image has."""
    ours, theirs = brought.facts.libc, image.libc
    if ours[0] != theirs[0]:
        raise UnsupportedImage(
            f"{uri} has the C library {theirs[0] or 'unknown'}, and overlay_env brings packages made for {ours[0]}",
            hint="Take an image with dask and distributed of its own.",
        )
    own = _numbers(ours[1])
    wanted = demanded(_wheels(brought.libraries), own)
    if ours[0] == "glibc" and wanted > _numbers(theirs[1]):
        raise UnsupportedImage(
            f"{uri} has glibc {theirs[1]}, and overlay_env brings packages that need {wanted[0]}.{wanted[1]}",
            hint="Take a newer image, or one with dask and distributed of its own.",
        )


def demanded(wheels: Iterable[str], own: tuple[int, int]) -> tuple[int, int]:
    """The glibc that packages need, by the texts of their WHEEL files: `own` for what was compiled here. Pure.

    https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/
    """
    most = (2, 0)
    for text in wheels:
        platforms = [each for tag in _TAG.findall(text) for each in tag.split(".")]
        needs = [need for need in (_need(each, own) for each in platforms) if need is not None]
        most = max(most, min(needs, default=(2, 0)))
    return most


def _need(platform: str, own: tuple[int, int]) -> tuple[int, int] | None:
    if found := _MANYLINUX.match(platform):
        return int(found[1]), int(found[2])
    if found := re.match(r"(manylinux\d+)_", platform):
        return _ALIASES.get(found[1])
    return own if platform.startswith("linux_") else None


def _wheels(libraries: Iterable[str]) -> Iterator[str]:
    for directory in libraries:
        for path in Path(directory).glob("*.dist-info/WHEEL"):
            try:
                yield path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (2, 0)
