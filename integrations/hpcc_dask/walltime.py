"""How long a worker may take tasks in a job that ends at its walltime. Pure.

A worker that has `--lifetime` retires: its results go to others, and it takes no more tasks. One that the queue kills
loses what it computed, and after a few such losses Dask takes the task for what kills workers.
"""

from __future__ import annotations

import re

from hpcc.errors import UsageError

_LEAST, _MOST = 15, 300  # seconds that a worker has for what it leaves
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def seconds(walltime: str, forms: str) -> int | None:
    """Of D-HH[:MM[:SS]], HH:MM:SS, A:B and A; None where it has no end. UsageError for what is none of these.

    forms: two letters, each of h, m or s: what a queue takes A for, and what the A of A:B.
    """
    text = str(walltime).strip()
    if text.lower() in ("infinite", "unlimited", "-1"):
        return None
    found = _TIME.fullmatch(text)
    if not found:
        raise UsageError(
            f"walltime={walltime!r} is not understood", hint='"HH:MM:SS" is; or say lifetime="50m", or lifetime=False.'
        )
    days, *parts = ((int(part) if part is not None else None) for part in found.groups())
    numbers = [part for part in parts if part is not None]
    largest = "h" if days is not None or len(numbers) == 3 else forms[len(numbers) - 1]
    unit = _SECONDS[largest]
    return (days or 0) * 86400 + sum(number * (unit // int(60**place)) for place, number in enumerate(numbers))


def lifetime_words(walltime: int) -> list[str]:
    """Options of Dask's worker: it retires a tenth of the walltime early, within 15 seconds and 5 minutes.

    Not all at once, but spread over half of that: each moves its results to those that stay. None for a walltime that
    leaves no time for work.
    """
    margin = min(max(walltime // 10, _LEAST), _MOST)
    if walltime < 2 * margin:
        return []
    return ["--lifetime", f"{walltime - margin}s", "--lifetime-stagger", f"{margin // 2}s"]
