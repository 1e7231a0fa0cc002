"""What the cache holds, and what registries still allow, for notebooks: tables there, text elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hpcc.settings import Settings

if TYPE_CHECKING:
    from hpcc.cli.limits import Row
    from hpcc.stats import Stats


class Limits(list["Row"]):
    """A row for each registry, and each who is counted there."""

    def _repr_html_(self) -> str:
        from hpcc.cli.limits import told
        from hpcc.registry.answers import clock
        from hpcc.tables import table

        rows = []
        for row in self:
            (left, of), window = told(row)
            until = f"left alone until {clock(row.not_before)}: {row.said}" if row.not_before else ""
            rows.append((row.registry, row.who, str(left), str(of), window, clock(row.seen_at), until))
        return table(("registry", "who is counted", "left", "of", "window", "as of", ""), rows)


def limits(*registries: str, offline: bool = False, settings: Settings | None = None) -> Limits:
    """As `hpcc limits`: how many pulls registries still allow, by HEAD, which costs none. Raises HpccError."""
    from hpcc.cli.limits import collect

    asked = settings or Settings.from_environ()
    return Limits(collect(registries, asked, offline=offline, warn=lambda text: print(text, file=sys.stderr)))


def cache_stats() -> Stats:
    """As `hpcc cache stats`. Raises CacheError."""
    from hpcc.cli.cache.items import own_tiers
    from hpcc.stats import read_stats

    return read_stats(own_tiers())
