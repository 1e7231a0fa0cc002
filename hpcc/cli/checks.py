"""What `hpcc doctor --slurm` and its like look at: who can do that comes by the entry-point group `hpcc.checks`.

A check is a function of a place, "" or what --on says, that gives Findings, or tuples of the same five texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from hpcc.errors import UsageError
from hpcc.sitepath import load_site_packages

GROUP = "hpcc.checks"
OK, INFO, GAP, FAILS = "ok", "info", "gap", "fails"
_MARKS = {OK: "ok", INFO: "", GAP: "--", FAILS: "!!"}
_WIDTH = 80


class Finding(NamedTuple):
    """One line. `state` is one of the above; `cost` and `remedy` are for a gap, and for what fails."""

    what: str
    state: str
    said: str
    cost: str = ""
    remedy: str = ""


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
        yield from _columns(f"{_MARKS[row.state]:<4}{row.what:<21}", row.said)
    wrong = [row for row in rows if row.state in (GAP, FAILS)]
    if not wrong:
        yield "\nNothing is missing."
    for row in sorted(wrong, key=lambda row: row.state != FAILS):
        yield ""
        yield from _columns(f"{_MARKS[row.state]}  ", f"{row.what}: {row.said}")
        yield from _columns("    costs:  ", row.cost)
        yield from _columns("    helps:  ", row.remedy)


def _columns(left: str, text: str) -> Iterable[str]:
    first, *rest = wrap(text, _WIDTH - len(left), break_long_words=False, break_on_hyphens=False) or [""]
    return [(left + first).rstrip(), *(" " * len(left) + line for line in rest)]
