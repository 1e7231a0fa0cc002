"""Whole commands that run elsewhere: `pull --on slurm:PARTITION`. Who can do that comes by the group `hpcc.executors`.

An executor is a function of what stands behind the colon and the argv of an hpcc, and gives the exit status of that;
what it prints is printed here. It may become another program and so not come back.
"""

from __future__ import annotations

from hpcc.errors import UsageError
from hpcc.invoke import program
from hpcc.records import TYPE_CHECKING
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "hpcc.executors"


def run_on(where: str, words: Sequence[str]) -> int:
    """Run `hpcc words` where NAME[:PLACE] says. UsageError where nobody is called that."""
    load_site_packages()
    from importlib.metadata import entry_points

    name, _, place = where.partition(":")
    found = {each.name: each for each in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise UsageError(f"--on {where}: there is no executor {name!r}", hint=f"Those there are: {known}.")
    return int(found[name].load()(place, [*program(), *words]))
