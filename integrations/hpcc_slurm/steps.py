"""hpcc slurm srun and salloc: steps in an image, and an allocation that has one.

srun     options `hpcc exec --job-env … IMAGE` command, for each component between ":"
salloc   as without hpcc, on the host; with $HPCC_SLURM_IMAGE and $HPCC_SLURM_OPTIONS for `hpcc slurm srun` in it
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from hpcc.cli.arguments import Arguments, Command, help_text, parse
from hpcc.errors import UsageError
from hpcc.invoke import program
from hpcc.settings import Settings
from hpcc_slurm.batch import job_environment, start_words
from hpcc_slurm.images import make_ready, no_slurm, require
from hpcc_slurm.sbatch import checked
from hpcc_slurm.words import DRY_RUN, IMAGE, Line, job_words, own_options, take_apart

IMAGE_VARIABLE, OPTIONS_VARIABLE = "HPCC_SLURM_IMAGE", "HPCC_SLURM_OPTIONS"
_USAGE = (
    "The image is pulled first. All options of Slurm's go; those of one letter, and --quiet, --verbose and --network, "
    "are Slurm's. Job variables, the job's directories and the GPUs that a task was given are there in any case."
)
COMMANDS = {
    "srun": Command(
        "slurm srun --image IMAGE [OPTIONS] COMMAND [ARG…]",
        f"Run a command in an image, once for each task. {_USAGE}",
        own_options(IMAGE, DRY_RUN),
        "hpcc slurm srun --image docker://debian:12 -N 2 --mpi pmi2 /data/ring",
    ),
    "salloc": Command(
        "slurm salloc --image IMAGE [OPTIONS] [COMMAND [ARG…]]",
        f"Get nodes, and run a command or a shell as salloc does; `hpcc slurm srun` there has the image. {_USAGE}",
        own_options(IMAGE, DRY_RUN),
        "hpcc slurm salloc --image docker://debian:12 --compat -N 2",
    ),
}


def main(name: str, before: list[str], argv: list[str]) -> int:
    command = COMMANDS[name]
    settings = Settings.from_environ()
    parts = [take_apart(part, name, command.options) for part in (_components(argv) if name == "srun" else [argv])]
    if parts[0].value("help") is not None or parts[0].value("h") is not None:
        print(help_text(command))
        return 0
    require(name)
    environ: Mapping[str, str] = job_environment(settings.environ)
    if name == "srun":
        words: list[str] = []
        for part in parts:
            arguments, container = _container(command, before, part, settings)
            _refuse(part)
            words += [*(":" for _ in words[:1]), *part.theirs, *container, *part.rest]
    else:
        arguments, (image, *options) = _decided(command, before, parts[0], settings)
        environ = {**settings.environ, IMAGE_VARIABLE: image, OPTIONS_VARIABLE: shlex.join(options)}
        words = [*parts[0].theirs, *parts[0].rest]
    if arguments.dry_run:
        if name == "salloc":
            print(f"{IMAGE_VARIABLE}={shlex.quote(image)}\n{OPTIONS_VARIABLE}={shlex.quote(shlex.join(options))}")
        print(shlex.join([name, *words]))
        return 0
    try:
        os.execvpe(name, [name, *words], {**environ})
    except FileNotFoundError:
        raise no_slurm(name) from None


def _components(argv: Sequence[str]) -> list[list[str]]:
    """The programs of a heterogeneous step: srun, too, takes each ":" for the end of one."""
    found: list[list[str]] = [[]]
    for word in argv:
        if word == ":":
            found.append([])
        else:
            found[-1].append(word)
    return found


def _container(command: Command, before: Sequence[str], part: Line, settings: Settings) -> tuple[Arguments, list[str]]:
    arguments, (image, *options) = _decided(command, before, part, settings)
    where = start_words(options, settings.environ, os.path.abspath(part.value("chdir") or os.getcwd()))
    return arguments, [*program(), "exec", "--job-env", *where, *options, "--", image]


def _decided(command: Command, before: Sequence[str], part: Line, settings: Settings) -> tuple[Arguments, list[str]]:
    """The arguments; the image's path and the options of `hpcc exec`. Where none is named, what salloc's was."""
    arguments = parse(command, [*before, *part.ours])
    image, options = arguments.image, list(checked(job_words(part.ours, command)))
    if not image and settings.environ.get(IMAGE_VARIABLE):
        image = settings.environ[IMAGE_VARIABLE]
        options = [*shlex.split(settings.environ.get(OPTIONS_VARIABLE, "")), *options]
    if not image:
        raise UsageError("no image is given", hint="By --image IMAGE, or before that to `hpcc slurm salloc`.")
    return arguments, [make_ready(image, arguments, dict(part.named)).path, *options]


def _refuse(part: Line) -> None:
    if not part.rest:
        raise UsageError("no command is given", hint=f"Usage: hpcc {COMMANDS['srun'].usage}")
    for name, why in (("multi-prog", "the programs stand in a file"), ("bcast", "it would copy hpcc, not the program")):
        if part.value(name) is not None:
            raise UsageError(f"--{name} does not go together with an image: {why}", hint=_INSTEAD[name])


_INSTEAD = {
    "multi-prog": "Name `hpcc exec --job-env IMAGE` in the file itself.",
    "bcast": "--stage node copies the image to each node once.",
}
