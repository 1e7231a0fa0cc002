"""What `hpcc doctor --slurm` and its like look at: who can do that comes by the entry-point group `hpcc.checks`.

A check is a function of a place, "" or what --on says, that gives Findings, or tuples of the same five texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hpcc.cli.doctor_report import MARKS, columns, gaps
from hpcc.errors import UsageError
from hpcc.runtime.findings import FAILS, GAP, INFO, OK, Finding
from hpcc.sitepath import load_site_packages

GROUP = "hpcc.checks"

__all__ = ["FAILS", "GAP", "INFO", "OK", "Finding", "run_check", "table"]


def run_check(name: str, place: str, *, as_json: bool) -> int:
    """Print what the check finds; 1 where something fails. UsageError where no such check is installed."""
    load_site_packages()
    from importlib.metadata import entry_points

    found = {each.name: each for each in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(f"doctor --{name}: no such check is installed", hint="It comes with hpcc's integrations.")
    rows = [Finding(*row) for row in found[name].load()(place)]
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        for line in table(rows):
            print(line)
    return 1 if any(row.state == FAILS for row in rows) else 0


def table(rows: Sequence[Finding]) -> Iterator[str]:
    """Lines of 80 columns, but for longer words: what there is, then what is missing, the worst first."""
    for row in rows:
        yield from columns(f"{MARKS[row.state]:<4}{row.what:<21}", row.said)
    yield from gaps(rows)
