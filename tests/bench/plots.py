"""Draw what `make bench` measured: plots.py BENCH.json OUT.svg, hpcc and Apptainer side by side, a panel for each unit.

Bars are relative to the larger of the two in each row, so that rows of one panel can be compared; figures are written.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

PANELS = (
    ("seconds", "seconds", 1),
    ("ms", "milliseconds", 1),
    ("peak MB", "peak memory, MB", 0),
    ("MB", "size, MB", 0),
)
"""How the name of a row ends, the panel's title, decimals."""
LEFT, BAR, ROW, HEAD, WIDTH = 230, 420, 40, 40, 760
STYLE = """
text{font:13px DejaVu Sans,Arial,sans-serif;fill:#222}.title{font-size:14px;font-weight:bold}
.page{fill:#fff}.ours{fill:#1f77b4}.theirs{fill:#b8b8b8}
@media (prefers-color-scheme:dark){text{fill:#ddd}.page{fill:#1e2129}.ours{fill:#5aa9e6}.theirs{fill:#6b7078}}
"""


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """An SVG for light and dark screens. Rows without both figures, and those in other units, are left out."""
    out: list[str] = []
    top = 10
    for unit, title, decimals in PANELS:
        chosen = [row for row in rows if _unit(row["what"]) == unit and row["hpcc"] and row["apptainer"]]
        if chosen:
            out += _panel(top, title, decimals, chosen)
            top += HEAD + ROW * len(chosen) + 10
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {top}' width='{WIDTH}' height='{top}'>"
    page = f"<rect class='page' width='{WIDTH}' height='{top}'/>"
    return "\n".join([head, f"<style>{STYLE}</style>", page, *out, "</svg>", ""])


def _unit(what: str) -> str:
    return what.rpartition(": ")[2]


def _panel(top: int, title: str, decimals: int, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"<text class='title' x='12' y='{top + 18}'>{title}: hpcc, Apptainer</text>"
    for number, row in enumerate(rows):
        y = top + HEAD - 8 + number * ROW
        most = max(row["hpcc"], row["apptainer"])
        name = row["what"].rpartition(": ")[0]
        yield f"<text x='{LEFT - 10}' y='{y + 20}' text-anchor='end'>{escape(name)}</text>"
        for place, (key, kind) in enumerate((("hpcc", "ours"), ("apptainer", "theirs"))):
            length = max(2, round(BAR * row[key] / most))
            at = y + place * 15
            yield f"<rect class='{kind}' x='{LEFT}' y='{at}' width='{length}' height='13'/>"
            yield f"<text x='{LEFT + length + 6}' y='{at + 11}'>{row[key]:.{decimals}f}</text>"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    target.write_text(draw(json.loads(source.read_text())["rows"]))
