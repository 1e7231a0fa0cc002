"""The Apptainer behind hpcc's stand-ins: which one that is, and how to become it without coming back.

    PATH   ~/.local/share/hpcc/shim    apptainer    a stand-in: passed over, like a link to one, and hpcc itself
           /usr/bin                    apptainer    the real one

A stand-in never finds itself, nor that of another hpcc. What is not to be seen from outside, a wrapper script that
calls `apptainer` by name again, does not find one either, since their directories leave the PATH that it gets; and
where it does all the same, the calls are counted.
"""

from __future__ import annotations

import os

from hpcc.errors import RuntimeUnavailable, Unknown
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAMES = ("apptainer", "singularity")
MARK = "# a stand-in by hpcc"  # in the second line of each, of every version: by it they know each other
LEVEL = "HPCC_STAND_IN_LEVEL"  # how many calls there were from a stand-in to what is behind it
MOST = 8  # a payload may have a reason to call apptainer again; nobody has one for more
_OURS = frozenset(("hpcc", "hpcc-full", "run-singularity"))


def real_apptainer(environ: Mapping[str, str]) -> str:
    """The first apptainer, else singularity, on PATH that is not hpcc's; "" for none."""
    return next((path for name in NAMES for path in on_path(name, environ) if not is_stand_in(path)), "")


def on_path(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Each program of that name, the first one first."""
    for directory in environ.get("PATH", "").split(":"):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            yield path


def is_stand_in(path: str) -> bool:
    """Whether the program is one of hpcc's, whichever hpcc's and through whatever links, or hpcc itself."""
    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(256) or os.path.basename(os.path.realpath(path)) in _OURS
    except OSError:
        return False


def hand_on(words: Sequence[str], why: Unknown, *, quiet: bool) -> None:
    """Have the real Apptainer do what hpcc does not know; `words` follow its name. Returns only by an error.

    RuntimeUnavailable where there is none, or where it calls the stand-in again and again.
    """
    program = real_apptainer(os.environ)
    if not program:
        raise RuntimeUnavailable(
            f"{why.message}, and hpcc's stand-in finds no Apptainer on PATH behind itself that could know it",
            hint=f"`module load apptainer`, perhaps. {why.hint}",
        )
    environment = environment_behind(os.environ, program)
    if not quiet:
        from hpcc.cli import say

        say("INFO", f"{why.message}; {program} takes over")
    os.execve(program, [program, *words], environment)


def environment_behind(environ: Mapping[str, str], program: str) -> dict[str, str]:
    """What the real Apptainer gets: no stand-in on its PATH, and the call is counted.

    RuntimeUnavailable where that was one call too many.
    """
    level = environ.get(LEVEL, "")
    number = int(level) + 1 if level.isdecimal() else 1
    if number > MOST:
        raise RuntimeUnavailable(
            f"{program} calls hpcc's stand-in again and again",
            hint="It seems to be a script that looks for Apptainer on PATH: name the real one in it, or take the "
            "stand-in away (`hpcc shim disable`).",
        )
    path = ":".join(each for each in environ.get("PATH", "").split(":") if not _is_of_stand_ins(each))
    return {**environ, "PATH": path, LEVEL: str(number)}


def _is_of_stand_ins(directory: str) -> bool:
    """Whether stand-ins are all that is in a directory: then nobody misses it."""
    try:
        names = os.listdir(directory) if directory.startswith("/") else []
    except OSError:
        return False
    return bool(names) and all(name in NAMES and is_stand_in(os.path.join(directory, name)) for name in names)
