"""hpcc slurm oci-conf: the file by which Slurm's own --container runs images with hpcc.

Since 23.02 Slurm takes any path for --container (IgnoreFileConfigJson) and tells the runtime by patterns what to run;
before, it wants a bundle, whose config.json it writes anew for each task. Slurm executes RunTimeRun by `/bin/sh -c`, in
the task's place, so that all signals are the payload's; that is why nothing is to be queried, killed or deleted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from shlex import join

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.run import COMMANDS as RUN
from hpcc.errors import UsageError
from hpcc.invoke import program

COMMAND = Command(
    "slurm oci-conf [OPTIONS]",
    "Print an oci.conf for Slurm's own --container, to stand beside slurm.conf on each node.",
    (
        Option(("--slurm",), "the version of Slurm; default: that of srun here", "VERSION"),
        Option(("--with",), "an option of hpcc exec for each container, as --nv or --bind=/data", "OPTION", many=True),
    ),
    "hpcc slurm oci-conf > /etc/slurm/oci.conf && scontrol reconfigure\n"
    "srun --container /images/python_3.12.sif python3 -V",
)
_ANY_PATH = (23, 2)
_EXCLUDED = '"^(SLURM_CONF|SLURM_CONF_SERVER)="'


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"oci-conf takes no {arguments.positional[0]!r}")
    words: list[str] = arguments.options["with"]
    if parse(RUN["exec"], words).positional:
        raise usage_error(COMMAND, "--with takes one option each: --with --nv --with --bind=/data")
    print(oci_conf(parse_version(arguments.slurm or installed()), [*program(), "slurm", "oci-run"], words), end="")
    return 0


def oci_conf(version: tuple[int, int], runner: Sequence[str], options: Sequence[str] = ()) -> str:
    """The text. UsageError for an option that Slurm's parser could not read. Pure."""
    said = "".join(f"--with={option} " for option in options)
    command = join(runner) + " " + said
    if any(each in command for each in "\"'%\\#") or any(" " in each for each in (*runner, *options)):
        raise UsageError(
            f"no oci.conf can hold {command.strip()}",
            hint="Neither hpcc's path nor an option may have blanks, quotes or one of % \\ #.",
        )
    head = "# made by `hpcc slurm oci-conf`; the same on all nodes\n"
    if version < _ANY_PATH:
        return (
            f"{head}"
            "# --container takes the directory that `hpcc slurm bundle IMAGE DIR` makes\n"
            f"RunTimeRun=\"exec {command}--bundle '%b'\"\n"
            'RunTimeQuery="echo {}"\nRunTimeKill="true"\nRunTimeDelete="true"\n'
        )
    return (
        f"{head}"
        "# --container takes a SIF, a squashfs file or a directory\n"
        "IgnoreFileConfigJson=true\nCreateEnvFile=null\n"
        f"EnvExclude={_EXCLUDED}\nRunTimeEnvExclude={_EXCLUDED}\n"
        f"RunTimeRun=\"exec {command}--env-file '%e' -- '%r' %@\"\n"
        'RunTimeKill="kill -s SIGTERM %p"\nRunTimeDelete="kill -s SIGKILL %p"\n'
    )


def parse_version(text: str) -> tuple[int, int]:
    """(year, month) of "slurm-wlm 22.05.8", "23.11", … UsageError."""
    parts = text.split()[-1].split(".") if text.split() else []
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise UsageError(f"{text!r} is no version of Slurm", hint="Name it: --slurm 23.11.")
    return int(parts[0]), int(parts[1])


def installed() -> str:
    """What srun or slurmd say of themselves; neither needs a configuration for that. "" where there is none."""
    for argv in (["srun", "--version"], ["slurmd", "-V"]):
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return ""
