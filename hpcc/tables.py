"""Tables in HTML, for notebooks. Everything in them is escaped: names come from registries and from others."""

from __future__ import annotations

from html import escape

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
