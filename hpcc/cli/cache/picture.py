"""The images of a cache as one picture: SVG, written by hand, since a drawing library costs more than all of hpcc."""

import time
from collections.abc import Sequence
from html import escape

from hpcc.cli.cache.items import size_text
from hpcc.stats import Usage

WIDTH, LABEL, SIDE, ROW, BAR, TOP = 960, 330, 170, 26, 16, 66  # pixels
MOST = 40
_AGES = ((7, "#222222", "this week"), (30, "#6e6e6e", "this month"), (float("inf"), "#bdbdbd", "longer ago"))
_FONT = "font-family='DejaVu Sans, Arial, sans-serif'"


def draw(images: Sequence[Usage], now: float) -> str:
    """Bars of the largest images, the largest first; the darker the bar, the later the image was used."""
    shown = images[:MOST]
    largest = max((each.size for each in shown), default=1) or 1
    height = TOP + ROW * max(1, len(shown)) + 34
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}'>",
        f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>",
        _text(16, 28, f"Images in the cache: {len(images)}, {size_text(sum(each.size for each in images))}", 16),
        *_legend(),
    ]
    for row, each in enumerate(shown):
        lines += _bar(each, TOP + ROW * row, largest, now)
    if len(images) > MOST:
        rest = images[MOST:]
        said = f"and {len(rest)} smaller ones, {size_text(sum(each.size for each in rest))}"
        lines.append(_text(LABEL, height - 14, said, 12))
    if not images:
        lines.append(_text(16, TOP + 12, "There are none.", 12))
    return "\n".join([*lines, "</svg>", ""])


def _legend() -> list[str]:
    lines, x = [_text(16, 50, "Last used:", 12)], 90
    for _, colour, said in _AGES:
        lines.append(f"<rect x='{x}' y='39' width='14' height='14' fill='{colour}' stroke='#000000'/>")
        lines.append(_text(x + 20, 50, said, 12))
        x += 36 + 8 * len(said)
    return lines


def _bar(image: Usage, y: int, largest: int, now: float) -> list[str]:
    days = (now - image.used) / 86400
    colour = next(colour for limit, colour, _ in _AGES if days < limit)
    length = max(2, round((WIDTH - LABEL - SIDE) * image.size / largest))
    used = time.strftime("%Y-%m-%d", time.gmtime(image.used))
    return [
        f"<g><title>{escape(f'{image.reference} {size_text(image.size)}, last used {used}')}</title>",
        _text(LABEL - 8, y + 13, _label(image), 12, "end"),
        f"<rect x='{LABEL}' y='{y}' width='{length}' height='{BAR}' fill='{colour}' stroke='#000000'/>",
        _text(LABEL + length + 6, y + 13, f"{size_text(image.size)} · {used}", 12),
        "</g>",
    ]


def _label(image: Usage) -> str:
    """Its shortest tag, else its repository and the first digits of its digest; the end of what is too long."""
    name, _, digest = image.reference.partition("@")
    said = min(image.tags, key=len) if image.tags else f"{name}@{digest[7:15]}"
    said = said.removeprefix("docker.io/library/").removeprefix("docker.io/")
    return said if len(said) <= 44 else f"…{said[-43:]}"


def _text(x: int, y: int, text: str, size: int, anchor: str = "start") -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return f"<text x='{x}' y='{y}' {_FONT} font-size='{size}' text-anchor='{anchor}'>{escape(printable)}</text>"
