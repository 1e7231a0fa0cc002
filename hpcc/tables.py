"""Values of hpcc as HTML for notebooks. Everything in them is escaped: names come from registries and from others."""

from __future__ import annotations

import time
from html import escape

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpcc.local import Image
    from hpcc.stats import Stats

_SHOWN = 20  # images of a cache


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts; without heads each row's first cell is one."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""

    def line(row: Sequence[str]) -> str:
        kinds = ["td" if head or at else "th" for at in range(len(row))]
        cells = zip(kinds, row, strict=True)
        return "".join(f'<{kind} style="text-align:left">{escape(cell)}</{kind}>' for kind, cell in cells)

    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    return f'<table class="hpcc">{title}{top}{body}</table>'


def size(amount: int) -> str:
    return f"{amount / 1e6:,.1f} MB"


def image_html(image: Image) -> str:
    config = image.config
    rows = [("image", image.name)]
    if image.reference:
        rows.append(("digest", image.reference.rpartition("@")[2]))
    rows.append(("file", image.path))
    if image.rootfs.size:
        rows.append(("size", size(image.rootfs.size)))
    for name, words in (("entrypoint", config.entrypoint), ("command", config.cmd)):
        if words:
            rows.append((name, " ".join(words)))
    return table((), rows)


def stats_html(stats: Stats) -> str:
    kinds = [(each.cache, f"{each.kind}s", str(each.objects), size(each.size)) for each in stats.kinds if each.objects]
    images = [
        (min(each.tags, key=len) if each.tags else each.reference, size(each.size), _day(each.used), str(each.users))
        for each in stats.images[:_SHOWN]
    ]
    more = len(stats.images) - len(images)
    left = f"<p>and {more} more</p>" if more else ""
    saved = f"<p>Layers that images share saved {stats.shared:.0%}; {stats.saved_pulls} pull(s) were saved.</p>"
    return (
        table(("cache", "", "objects", "size"), kinds)
        + table(("image", "size", "used", "users"), images)
        + left
        + (saved if stats.layers else "")
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
