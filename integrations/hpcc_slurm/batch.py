"""hpcc slurm-batch: the first line of a submitted script, where the job runs. It becomes `hpcc exec`.

    slurmd executes  /var/spool/slurmd/job00007/slurm_script args
    the kernel       hpcc 'slurm-batch {…}' /var/spool/slurmd/job00007/slurm_script args
    this             hpcc exec --job-env … IMAGE /bin/bash /var/spool/slurmd/job00007/slurm_script args

The script is bound at its own path, so that $0, requeue, arrays and `scontrol write batch_script` are as without hpcc,
and nothing stands between slurmd and the payload that could outlive it or swallow a signal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hpcc.cli.arguments import parse
from hpcc.cli.run import COMMANDS
from hpcc.errors import ImageNotFound, UsageError
from hpcc.invoke import program
from hpcc.settings import Settings
from hpcc_slurm.script import INSIDE, Decided, read_decided

_USAGE = """\
Usage: hpcc slurm-batch SCRIPT [ARG…]

What `hpcc slurm sbatch` has submitted, where the job runs.

Example:
  scontrol write batch_script 123 - | head -n 1"""


def main(name: str, argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    path, *rest = argv
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            decided, has_guard = read_decided(file.read())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not os.path.exists(decided.image):
        raise ImageNotFound(
            f"{decided.image}, which {decided.name} was when this job was submitted, is not on {os.uname().nodename}",
            hint="Either the cache is on a filesystem that this node has not, or somebody has cleaned it meanwhile: "
            f"`hpcc pull` it again, and then `scontrol requeue {os.environ.get('SLURM_JOB_ID', 'JOB')}`.",
        )
    environ = job_environment({**decided.environ, **os.environ})
    command = container_words(os.path.abspath(path), rest, decided, environ, os.getcwd(), has_guard=has_guard)
    argv = [*program(), "exec", *command]
    os.execve(argv[0], argv, environ)


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """With what holds for all images in jobs: nothing is pulled, and GPUs are there where the job was given some."""
    found = {**environ, "HPCC_OFFLINE": "1"}
    settings = Settings.from_environ(found)
    for kind in ("nv", "rocm"):
        if settings.origins[kind] == "default":
            found[f"HPCC_{kind.upper()}"] = "auto"
    return found


def container_words(
    path: str, rest: Sequence[str], decided: Decided, environ: Mapping[str, str], cwd: str, *, has_guard: bool
) -> list[str]:
    """What follows `hpcc exec`."""
    words = ["--job-env", "--bind", f"{quoted(path)}:{quoted(path)}:ro", *start_words(decided.options, environ, cwd)]
    if has_guard:
        words += ["--env", f"{INSIDE}=1"]
    return [*words, *decided.options, "--", decided.image, *decided.run, path, *rest]


def start_words(options: Sequence[str], environ: Mapping[str, str], cwd: str) -> list[str]:
    """--pwd, where a container that is shut off would not start in the job's directory, as jobs do."""
    arguments = parse(COMMANDS["exec"], options)
    shut = arguments.contain or arguments.containall or arguments.compat
    home = environ.get("HOME", "")
    if not shut or arguments.pwd or arguments.home or cwd in ("/", "/tmp", "/var/tmp", home):
        return []
    return ["--pwd", cwd]


def quoted(path: str) -> str:
    """A path as --bind reads it."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
