"""hpcc slurm sbatch: a batch script that runs in an image.

The image is there before anything is queued, and the job knows its path, so that its nodes ask no registry. This
process becomes sbatch, which reads the script from its standard input (script.py): options, output, exit status and
`--wait` are sbatch's own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, help_text, parse
from hpcc.cli.run import COMMANDS, runtime_options
from hpcc.errors import HpccError, UsageError, place_hint
from hpcc.invoke import program
from hpcc.runtime.binds import parse_bind, split_binds
from hpcc.settings import Settings
from hpcc_slurm.images import Pull, Ready, cache_variables, make_ready, no_slurm, require, run_sbatch, submit_pull
from hpcc_slurm.script import Decided, interpreter, own_words, slurm_values, with_decided
from hpcc_slurm.words import DRY_RUN, IMAGE, PULL_ON, Line, job_words, own_options, take_apart

COMMAND = Command(
    "slurm sbatch --image IMAGE [OPTIONS] SCRIPT [ARG…] | --wrap COMMAND",
    "Submit a batch script that runs in an image, which is pulled first. All options of sbatch go; those of one "
    "letter, and --quiet, --verbose and --network, are sbatch's. The script may say the same in lines such as `#HPCC "
    "image=docker://debian:12 compat bind=/data`. Job variables, the job's directories and the GPUs that it was given "
    "are there in any case.",
    own_options(IMAGE, PULL_ON, DRY_RUN),
    "hpcc slurm sbatch --image docker://python:3.12 --compat -c 4 train.sh\n"
    "hpcc slurm sbatch --image x.sif -a 0-9 --wrap 'tool $SLURM_ARRAY_TASK_ID'",
)


class Submission(NamedTuple):
    """What sbatch gets: words, of which `dependency` is not known before the pull's job is, and a script."""

    words: tuple[str, ...]
    script: str
    rest: tuple[str, ...]  # what the script gets
    pull: Pull | None
    dependency: str  # that the job has anyway


def main(name: str, before: list[str], argv: list[str]) -> int:
    line = take_apart(argv, "sbatch", COMMAND.options)
    if line.value("help") is not None or line.value("h") is not None:
        print(help_text(COMMAND))
        return 0
    require("sbatch")
    arguments, made = prepare(before, line, Settings.from_environ())
    if arguments.dry_run:
        show(made)
        return 0
    words = submission_words(made, os.environ)
    if made.pull is not None:
        inform(arguments, "The image is pulled by a job of its own, which this one waits for")
    become("sbatch", words, made.script)


def prepare(before: Sequence[str], line: Line, settings: Settings) -> tuple[Arguments, Submission]:
    """Read the script, have the image, and decide. Raises HpccError; then nothing was queued."""
    script, called, rest = _script(line)
    from_script = own_words(script)
    inside = take_apart(from_script, "sbatch", COMMAND.options)
    if inside.theirs or inside.rest:
        others = shlex.join([*inside.theirs, *inside.rest])
        raise UsageError(f"#HPCC: {others}: hpcc has no such option", hint="Those of sbatch stand behind #SBATCH.")
    ours = (*inside.ours, *line.ours)
    arguments = parse(COMMAND, [*before, *ours])
    if not arguments.image:
        raise UsageError("no image is given", hint=f"By --image IMAGE, or a line #HPCC image=IMAGE in {called}.")
    run = interpreter(script)
    options = checked(job_words(ours, COMMAND))
    theirs = {**slurm_values(script), **dict(line.named)}
    ready: Ready = make_ready(arguments.image, arguments, theirs)
    decided = Decided(ready.path, str(arguments.image), options, run, cache_variables(settings))
    words = [] if "job-name" in theirs or "SBATCH_JOB_NAME" in settings.environ else [f"--job-name={called}"]
    submission = Submission(
        (*words, *_without_wrap(line.theirs)), with_decided(script, program(), decided), rest, ready.pull,
        theirs.get("dependency", ""),
    )  # fmt: skip
    return arguments, submission


def _script(line: Line) -> tuple[str, str, tuple[str, ...]]:
    """(the script, what it is called, its arguments)"""
    wrapped = line.value("wrap")
    if wrapped is not None:
        if line.rest:
            raise UsageError(f"--wrap and a script exclude each other: {line.rest[0]}")
        return f"#!/bin/sh\n# This script was created by hpcc slurm sbatch --wrap.\n{wrapped}\n", "wrap", ()
    if not line.rest and os.isatty(0):
        raise UsageError("no script is given", hint=f"Usage: hpcc {COMMAND.usage}")
    path, *rest = line.rest or ("on standard input",)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if line.rest else os.dup(0)
        with open(fd, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read(), os.path.basename(path) if line.rest else "sbatch", tuple(rest)
    except OSError as error:
        hint = "A value of one of sbatch's options is written --name=value where hpcc does not know the option."
        raise UsageError(f"cannot read the script {path}: {error.strerror}", hint=hint) from None


def checked(words: tuple[str, ...]) -> tuple[str, ...]:
    """The options of the job, if `hpcc exec` would take them: better now than when the job runs. UsageError."""
    arguments = parse(COMMANDS["exec"], words)
    runtime_options(arguments)
    for text in (text for item in arguments.bind for text in split_binds(item)):
        parse_bind(text, "/")
    return words


def _without_wrap(words: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--wrap":
            queue.pop(0)
        elif not word.startswith("--wrap="):
            found.append(word)
    return tuple(found)


def submission_words(made: Submission, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The words of sbatch, after the job that pulls was submitted, if there is one. HpccError."""
    words = made.words
    if made.pull is not None:
        if "?" in made.dependency:
            raise UsageError(
                f"--dependency {made.dependency}: of jobs any of which will do, and one that pulls, no order can be "
                "made", hint="Pull first, by `hpcc pull --on slurm:PARTITION`.",
            )  # fmt: skip
        if ":" not in words:  # of which sbatch tests the first component alone
            run_sbatch((*words, "--test-only"), made.script, environ)  # or there would be a pull for nothing
        job_id = submit_pull(made.pull, environ).partition(";")[0]
        after = ",".join(filter(None, (made.dependency, f"afterok:{job_id}")))
        # Behind the others of the first component: the last --dependency is the one that counts.
        at = words.index(":") if ":" in words else len(words)
        words = (*words[:at], f"--dependency={after}", "--kill-on-invalid-dep=yes", *words[at:])
    return (*words, "/dev/stdin", *made.rest) if made.rest else words


def show(made: Submission) -> None:
    """What --dry-run prints: the script; and commented, so that it stays one, how it would be submitted."""
    print(made.script, end="")
    if made.pull is not None:
        print(f"# sbatch {shlex.join(made.pull.words)} <<'END'")
        print(re.sub("^", "#   ", made.pull.script.rstrip(), flags=re.M))
        print("# END")
    waits = " --dependency=afterok:ID --kill-on-invalid-dep=yes" if made.pull is not None else ""
    print(f"# sbatch{waits} {shlex.join([*made.words, *(('/dev/stdin', *made.rest) if made.rest else ())])}")


def become(name: str, words: Sequence[str], script: str) -> NoReturn:
    """Become one of Slurm's programs, with the script as its standard input. HpccError where there is none."""
    try:
        fd = os.memfd_create("script")
    except OSError as error:
        raise HpccError(f"cannot keep the script: {error.strerror}", hint=place_hint(error)) from None
    with open(fd, "wb", closefd=False) as file:
        file.write(script.encode("utf-8", "surrogateescape"))
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    try:
        os.execvp(name, [name, *words])
    except FileNotFoundError:
        raise no_slurm(name) from None
