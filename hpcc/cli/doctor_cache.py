"""hpcc doctor --cache: what the filesystem of the cache does, from this node and perhaps another one."""

import json
import shlex
import sys

from hpcc.cli.arguments import Arguments
from hpcc.errors import UsageError
from hpcc.invoke import program
from hpcc.settings import Settings


def report(arguments: Arguments) -> int:
    """Print what was found; 1 where something that hpcc needs is not there."""
    from hpcc.cache.examine import answer, examine
    from hpcc.cache.filesystem import is_local
    from hpcc.lookup import tiers

    if arguments.answer:
        answer(arguments.answer, sys.stdin, sys.stdout)
        return 0
    settings = Settings.from_environ()
    cache = tiers(settings)[-2]
    other = None
    command = arguments.options["with"]
    if command:
        try:
            other = [*shlex.split(command), *program(), "doctor", "--cache", "--answer", cache.root]
        except ValueError as error:
            raise UsageError(f"--with {command!r}: {error}", hint="As in a shell: --with 'ssh n2'.") from None
    trials = examine(cache, other)
    bad = [trial for trial in trials if trial.needed and not trial.good]
    if arguments.json:
        print(json.dumps({"cache": cache.root, "trials": [trial._asdict() for trial in trials]}, indent=1))
        return 1 if bad else 0
    print(f"{cache.root}\n")
    for trial in trials:
        print(f"  {'yes' if trial.good else 'no':<4}{trial.what:<26}{trial.said}")
    if bad:
        print(f"\nhpcc needs {', '.join(trial.what for trial in bad)}: put the cache elsewhere (HPCC_CACHE_DIR).")
    elif other is None and not is_local(cache.root):
        print("\nWhether two nodes see each other's locks only two nodes can tell:")
        print("  hpcc doctor --cache --with 'ssh OTHER'      (or --with 'srun -N1 -w OTHER')")
    return 1 if bad else 0
