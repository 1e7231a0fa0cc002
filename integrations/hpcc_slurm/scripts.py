"""hpcc slurm prolog, task-prolog, epilog: scripts that an administrator installs and names in slurm.conf.

Prolog       as root, before a job's first step on a node: the user's node directory is there before anybody else can
             put one in its place
TaskProlog   as the user, before each task: what it prints becomes variables; where node directories are, and staging
Epilog       as root, after a job: what users without jobs left on the node goes

A Prolog or Epilog that fails drains its node, so these never do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from shlex import join, quote
from shutil import which

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc.invoke import program
from hpcc_slurm.clean_node import DEFAULT, UNUSED, checked_pattern

_PRINT = Option(("--print",), "that is what it does anyway")
_DIRECTORY = Option(("--node-dir",), f"where node directories are, with %U for the uid; default: {DEFAULT}", "DIR")
_COMMANDS = {
    "prolog": Command(
        "slurm prolog [OPTIONS]",
        "Print a Prolog: it makes the user's node directory, so that nobody else can before.",
        (_DIRECTORY, _PRINT),
        "hpcc slurm prolog > /etc/slurm/hpcc-prolog\n# slurm.conf: Prolog=/etc/slurm/hpcc-prolog",
    ),
    "task-prolog": Command(
        "slurm task-prolog [OPTIONS]",
        "Print a TaskProlog: it tells tasks where their node directory is, and that images are staged.",
        (_DIRECTORY, Option(("--stage",), "shared, node or auto, for all", "WHEN"), _PRINT),
        "hpcc slurm task-prolog --node-dir /scratch/hpcc-%U > /etc/slurm/task-prolog\n"
        "# slurm.conf: TaskProlog=/etc/slurm/task-prolog",
    ),
    "epilog": Command(
        "slurm epilog [OPTIONS]",
        "Print an Epilog: it removes the node directories of users who have neither jobs nor processes on the node, "
        "and have not used theirs for some time.",
        (_DIRECTORY, UNUSED, _PRINT),
        "hpcc slurm epilog --unused 24 > /etc/slurm/hpcc-epilog\n# slurm.conf: Epilog=/etc/slurm/hpcc-epilog",
    ),
}
_PROLOG = """\
#!/bin/sh
# made by `hpcc slurm prolog`; runs as root
umask 077
directory={directory}
case ${{SLURM_JOB_UID:-0}} in
    0 | *[!0-9]*) ;;
    *) if mkdir "$directory" 2>/dev/null; then chown -h "$SLURM_JOB_UID:$(id -g "$SLURM_JOB_UID")" "$directory"
       elif [ "$(stat -c %u:%F "$directory" 2>/dev/null)" != "$SLURM_JOB_UID:directory" ]; then
           logger -t hpcc -- "$directory is not a directory of uid $SLURM_JOB_UID"
       fi ;;
esac
exit 0
"""
_TASK_PROLOG = """\
#!/bin/sh
# made by `hpcc slurm task-prolog`; runs as the user, and what it prints becomes variables
{lines}"""
_EPILOG = """\
#!/bin/sh
# made by `hpcc slurm epilog`; runs as root
{path}{command} --besides "${{SLURM_JOB_ID:-0}}" >/dev/null 2>&1 </dev/null
exit 0
"""


def prolog(argv: list[str]) -> int:
    return _printed("prolog", argv, _prolog)


def task_prolog(argv: list[str]) -> int:
    return _printed("task-prolog", argv, _task_prolog)


def epilog(argv: list[str]) -> int:
    return _printed("epilog", argv, _epilog)


def _printed(name: str, argv: list[str], text: Callable[[Arguments], str]) -> int:
    arguments = parse(_COMMANDS[name], argv)
    if arguments.positional:
        raise usage_error(_COMMANDS[name], f"{name} takes no {arguments.positional[0]!r}")
    print(text(arguments), end="")
    return 0


def _prolog(arguments: Arguments) -> str:
    return _PROLOG.format(directory=_shell_word(arguments.node_dir or DEFAULT, "$SLURM_JOB_UID"))


def _task_prolog(arguments: Arguments) -> str:
    lines = []
    if arguments.node_dir:
        lines.append(f'echo "export HPCC_NODE_DIR="{_shell_word(arguments.node_dir, "$(id -u)")}\n')
    if arguments.stage:
        if arguments.stage not in ("shared", "node", "auto"):
            raise UsageError(f"--stage {arguments.stage!r}: shared | node | auto")
        lines.append(f"echo export HPCC_STAGE={arguments.stage}\n")
    if not lines:
        raise usage_error(_COMMANDS["task-prolog"], "--node-dir or --stage says what tasks are to be told")
    return _TASK_PROLOG.format(lines="".join(lines))


def _epilog(arguments: Arguments) -> str:
    words = [*program(), "slurm", "clean-node"]
    words += [f"--node-dir={checked_pattern(arguments.node_dir)}"] if arguments.node_dir else []
    words += [f"--unused={arguments.unused}"] if arguments.unused is not None else []
    squeue = os.path.dirname(which("squeue") or "")  # slurmd's PATH is short
    return _EPILOG.format(command=join(words), path=f"PATH={quote(squeue)}:$PATH\n" if squeue else "")


def _shell_word(pattern: str, uid: str) -> str:
    """A directory with %U as a word of sh."""
    before, _, after = checked_pattern(pattern).partition("%U")
    return f'{quote(before)}"{uid}"{quote(after) if after else ""}'
