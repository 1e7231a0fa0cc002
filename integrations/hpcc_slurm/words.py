"""Command lines of sbatch, srun and salloc with hpcc's long options among their own. Pure.

    hpcc slurm sbatch --image docker://debian:12 --compat -N 2 --time 10 script.sh args
                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ ours    ^^^^^^^^^^^^^^ theirs

An option of one letter is Slurm's. So is a long one that both have (--quiet, --verbose, --network); hpcc's own name,
written out, is never taken for the beginning of one of Slurm's (--contain, --container). What neither is known to have
goes to Slurm, which may be newer: with a value it is written --name=value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hpcc.cli.arguments import GLOBAL, Command, Option
from hpcc.cli.run import COMMANDS
from hpcc.cli.source import SOURCE_OPTIONS
from hpcc.errors import UsageError

_VALUES = """
    account acctg-freq array batch bb bbf bcast-exclude begin chdir cluster-constraint clusters comment constraint
    container container-id core-spec cores-per-socket cpu-bind cpu-freq cpus-per-gpu cpus-per-task deadline
    delay-boot dependency distribution epilog error exclude export export-file extra extra-node-info gid gpu-bind
    gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group hint input job-name jobid
    kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus mpi
    network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres open-mode output partition power prefer priority profile prolog qos relative reservation segment
    signal slurmd-debug sockets-per-node switches task-epilog task-prolog thread-spec threads threads-per-core time
    time-min tmp topology treewidth tres-bind tres-per-task uid wait-all-nodes wckey wrap x11-target
"""
_FLAGS = """
    async bcast bell compress consolidate-segments contiguous disable-status exact exclusive external get-user-env
    help hold ignore-pbs immediate interactive kill-command kill-on-bad-exit label multi-prog nice no-allocate
    no-bell no-kill no-requeue no-shell oom-kill-step overcommit overlap oversubscribe parsable preserve-env
    propagate pty quiet quit-on-interrupt reboot requeue resv-ports send-libs spread-job stepmgr test-only
    unbuffered usage use-min-nodes verbose version wait wait-for-children whole x11
"""
VALUES = frozenset(_VALUES.split())
"""The long options whose value may be the next word: of sbatch, srun and salloc 22.05 to 25.05."""
FLAGS = frozenset(_FLAGS.split())
_VALUED = {
    "sbatch": "ABCDFGJLMNSabcdeimnopqtwx",
    "srun": "ABCDFGJLMNSTWabcdeimnopqrtwx",
    "salloc": "ABCDFGJLMNSWbcdmnpqtwx",
}
_SHORT = {"A": "account", "D": "chdir", "J": "job-name", "M": "clusters", "W": "wait", "d": "dependency", "o": "output"}

_SUBMITTED = {name for option in SOURCE_OPTIONS for name in option.names}
_LEFT_OUT = {"--dry-run", *(name for option in GLOBAL for name in option.names)}
PULL_ON = Option(("--pull-on",), "pull in a job of its own, in this partition; the other one waits for it", "PARTITION")
IMAGE = Option(("--image",), "docker://NAME, or a SIF or squashfs file", "IMAGE")
DRY_RUN = Option(("--dry-run",), "print what would be submitted; neither pull nor submit")


def own_options(*more: Option) -> tuple[Option, ...]:
    """Those of `hpcc exec`, by their long names alone, but for what Slurm has too; and `more` before them."""
    found = list(more)
    for option in COMMANDS["exec"].options:
        names = tuple(name for name in option.names if name.startswith("--") and name[2:] not in VALUES | FLAGS)
        if names and not _LEFT_OUT & set(names):
            found.append(option._replace(names=names))
    return tuple(found)


class Line(NamedTuple):
    """A command line, taken apart; each list in the order of the words.

    ours: words that are hpcc's. theirs: Slurm's. named: theirs by their long names, with their values; of those
    before the first ":" alone, but for --wrap. rest: what follows the options.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    rest: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """The last value of one of Slurm's options, "" of a flag; None where it is not given."""
        return next((value for key, value in reversed(self.named) if key == name), None)


def take_apart(words: Sequence[str], program: str, options: Sequence[Option]) -> Line:
    """Tell hpcc's `options` from those of `program`: sbatch, srun or salloc. UsageError for one without its value."""
    table = {name: option for option in options for name in option.names}
    ours: list[str] = []
    theirs: list[str] = []
    named: list[tuple[str, str]] = []
    queue = list(words)
    first = True
    while queue:
        word = queue[0]
        if word == ":":  # of heterogeneous jobs, whose next component's options follow
            first = False
            theirs.append(queue.pop(0))
            continue
        if word == "--":
            return Line(tuple(ours), tuple(theirs), tuple(named), tuple(queue[1:]))
        if not word.startswith("-") or word == "-":
            break
        queue.pop(0)
        name, equals, value = word.partition("=")
        option = table.get(name)
        if option is not None:
            ours.append(word)
            if option.value and not equals:
                ours.append(_next(name, queue))
            continue
        theirs.append(f"--{_whole(name[2:])}{equals}{value}" if word.startswith("--") else word)
        for key, has_value, attached in _slurm_options(word, program):
            if has_value and attached is None:
                attached = _next(name, queue)
                theirs.append(attached)
            if first or key == "wrap":
                named.append((key, attached or ""))
    return Line(tuple(ours), tuple(theirs), tuple(named), tuple(queue))


def _slurm_options(word: str, program: str) -> list[tuple[str, bool, str | None]]:
    """(name, whether it must have a value, the value that is attached) of each option in one of Slurm's words."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        long = _whole(name)
        return [(long, long in VALUES or (long == "wait" and program == "srun"), value if equals else None)]
    found: list[tuple[str, bool, str | None]] = []
    for at, letter in enumerate(word[1:], 2):
        name = _SHORT.get(letter, letter)
        if letter in _VALUED[program]:
            return [*found, (name, True, word[at:] or None)]
        found.append((name, False, None))
        if letter in "kIK":  # whose value, if any, is attached
            break
    return found


def _whole(name: str) -> str:
    """getopt takes the beginning of a name that no other one has."""
    if name in VALUES or name in FLAGS:
        return name
    found = [each for each in VALUES | FLAGS if each.startswith(name)]
    return found[0] if len(found) == 1 else name


def _next(name: str, queue: list[str]) -> str:
    if not queue:
        raise UsageError(f"{name} needs a value", hint="`hpcc slurm --help` says more.")
    return queue.pop(0)


def job_words(ours: Sequence[str], command: Command) -> tuple[str, ...]:
    """Of hpcc's words those that count where the job runs: the options of `hpcc exec` itself."""
    table: Mapping[str, Option] = {name: option for option in command.options for name in option.names}
    found: list[str] = []
    queue = list(ours)
    while queue:
        word = queue.pop(0)
        name, equals, _ = word.partition("=")
        taken = [word]
        if table[name].value and not equals:
            taken.append(queue.pop(0))
        if name not in _SUBMITTED and name not in ("--image", "--pull-on", "--dry-run"):
            found += taken
    return tuple(found)
