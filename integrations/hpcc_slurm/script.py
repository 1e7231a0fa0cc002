"""Batch scripts: what hpcc writes into one, and reads again where the job runs. Pure.

The user's script is submitted as it is, but for its first line, so that its lines keep their numbers:

    #!/opt/hpcc/bin/hpcc slurm-batch {"version": 1, "image": "/cache/sif-v1/….sif", "run": ["/bin/bash"], …}
    #SBATCH --time=10
    …

slurmd executes this from its spool, the kernel starts hpcc, and hpcc reads the line from the file, since what the
kernel hands over may be cut off. Where the path of hpcc is too long for a first line, or has blanks, and the script is
one of a shell, sh runs it, down to a line behind the comments that it begins with, which sbatch reads no further than:

    #!/bin/sh
    #SBATCH --time=10
    [ "${HPCC_BATCH-}" ] || exec '/long path/hpcc' slurm-batch "$0" "$@"; unset HPCC_BATCH #HPCC-JOB {…}
    …
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hpcc.errors import UsageError
from hpcc_slurm.words import take_apart

COMMAND = "slurm-batch"
INSIDE = "HPCC_BATCH"  # is set where a script with such a line is to go on
_LONGEST = 120  # of a path in a first line: Linux before 5.1 reads 127 bytes of that
_SHELLS = frozenset(("sh", "bash", "dash", "ksh", "zsh", "ash"))
_PLAIN = re.compile(r"[\w@%+=:,./-]+")
_MARK = "#HPCC-JOB "
_GUARD = f'[ "${{{INSIDE}-}}" ] || exec '


class Decided(NamedTuple):
    """What was decided where the job was submitted. image: a path; name: what the user called it.

    options: of `hpcc exec`; run: the interpreter that the script's own first line names, and its argument;
    environ: variables that say where the cache is.
    """

    image: str
    name: str
    options: tuple[str, ...]
    run: tuple[str, ...]
    environ: Mapping[str, str]


def interpreter(script: str) -> tuple[str, ...]:
    """What a script's first line names, as the kernel reads it. UsageError where there is none, as sbatch says it."""
    line = script.partition("\n")[0]
    words = line[2:].strip(" \t\r").split(None, 1) if line.startswith("#!") else []
    if not words:
        raise UsageError(
            "this does not look like a batch script: its first line must begin with #! and a path of an interpreter",
            hint="For instance #!/bin/bash, by which the script is run in the image.",
        )
    return tuple(words)


def lines_for(marker: str, script: str) -> Iterator[str]:
    """What stands behind #SBATCH or #HPCC, down to the first line that is no comment, as sbatch reads them."""
    for line in script.split("\n"):
        if line.startswith(marker) and line[len(marker) : len(marker) + 1] in (" ", "\t"):
            yield line[len(marker) :].strip()
        elif line.strip() and not line.startswith("#"):
            return


def own_words(script: str) -> tuple[str, ...]:
    """`#HPCC image=… compat bind=…` as options of hpcc: --image=… --compat --bind=…. UsageError."""
    found = []
    for line in lines_for("#HPCC", script):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"#HPCC {line}: {error}") from None
        for word in words:
            name, equals, value = word.lstrip("-").partition("=")
            found.append(f"--{name.replace('_', '-')}{equals}{value}")
    return tuple(found)


def slurm_values(script: str) -> dict[str, str]:
    """The options of sbatch in the script, by their long names; of a heterogeneous job those of the first component."""
    found: dict[str, str] = {}
    for line in lines_for("#SBATCH", script):
        if line.split()[:1] in (["hetjob"], ["packjob"]):
            break
        try:
            found |= dict(take_apart(shlex.split(line, comments=True), "sbatch", ()).named)
        except (ValueError, UsageError):
            continue  # sbatch says what is wrong
    return found


def with_decided(script: str, program: Sequence[str], decided: Decided) -> str:
    """The script to submit. UsageError where hpcc's own path allows none."""
    said = json.dumps({"version": 1, **decided._asdict(), "environ": dict(decided.environ)})
    if len(program) == 1 and _PLAIN.fullmatch(program[0]) and len(program[0]) <= _LONGEST:
        return f"#!{program[0]} {COMMAND} {said}\n{script.partition(chr(10))[2]}"
    name = decided.run[0].rpartition("/")[2]
    if name == "env" and len(decided.run) > 1:
        name = decided.run[1].rpartition("/")[2]
    if name not in _SHELLS:
        raise UsageError(
            f"the script is run by {' '.join(decided.run)}, and hpcc's own path cannot stand in its first line: "
            f"{shlex.join(program)}",
            hint="Submit it by --wrap, or as a shell script that calls it; or install hpcc where its path is short.",
        )
    command = shlex.join([*program, COMMAND])
    guard = f'{_GUARD}{command} "$0" "$@"; unset {INSIDE} {_MARK}{said}'
    lines = script.split("\n")
    end = next((at for at, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines) - 1)
    return "\n".join(["#!/bin/sh", *lines[1:end], guard, *lines[end:]])


def read_decided(script: str) -> tuple[Decided, bool]:
    """What `with_decided` wrote, and whether in a line of sh. UsageError where it did not."""
    said = script.partition("\n")[0].partition(f" {COMMAND} ")[2]
    has_guard = not said
    if has_guard:
        guards = (line for line in script.split("\n") if line.startswith(_GUARD))
        said = next(guards, "").partition(_MARK)[2]
    try:
        value = json.loads(said)
        if value["version"] != 1:
            raise UsageError(f"the script is of version {value['version']}, and hpcc knows version 1")
        decided = Decided(
            str(value["image"]), str(value["name"]), tuple(map(str, value["options"])), tuple(map(str, value["run"])),
            {str(name): str(text) for name, text in value["environ"].items()},
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("this is no script that `hpcc slurm sbatch` has submitted") from None
    return decided, has_guard
