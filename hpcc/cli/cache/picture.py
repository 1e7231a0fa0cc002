"""The images of a cache as one picture: shapes first, then SVG written by hand, or PNG by Pillow (the extra `plot`)."""

import io
import time
from collections.abc import Sequence
from html import escape

from hpcc.cli.cache.items import size_text
from hpcc.errors import UsageError
from hpcc.records import NamedTuple
from hpcc.sitepath import load_site_packages
from hpcc.stats import Usage

WIDTH, LABEL, SIDE, ROW, BAR, TOP = 960, 330, 170, 26, 16, 66  # pixels
MOST = 40
BLACK, WHITE = "#000000", "#ffffff"
_AGES = ((7, "#222222", "this week"), (30, "#6e6e6e", "this month"), (float("inf"), "#bdbdbd", "longer ago"))
_FONT = "font-family='DejaVu Sans, Arial, sans-serif'"
_ENDS = {"start": "ls", "end": "rs"}  # as SVG and as Pillow say where on the baseline a text is held


class Box(NamedTuple):
    """A rectangle with a thin black border. `title`: what a browser shows when one points at it."""

    x: int
    y: int
    width: int
    height: int
    colour: str
    title: str = ""


class Text(NamedTuple):
    """One line; x and y are those of its baseline, at its start or its end."""

    x: int
    y: int
    text: str
    size: int
    anchor: str = "start"


class Picture(NamedTuple):
    """Shapes on white, in the order in which they are drawn."""

    width: int
    height: int
    shapes: tuple[Box | Text, ...]


def draw(images: Sequence[Usage], now: float) -> Picture:
    """Bars of the largest images, the largest first; the darker the bar, the later the image was used. Pure."""
    shown = images[:MOST]
    largest = max((each.size for each in shown), default=1) or 1
    height = TOP + ROW * max(1, len(shown)) + 34
    title = f"Images in the cache: {len(images)}, {size_text(sum(each.size for each in images))}"
    shapes: list[Box | Text] = [Text(16, 28, title, 16), *_legend()]
    for row, each in enumerate(shown):
        shapes += _bar(each, TOP + ROW * row, largest, now)
    if len(images) > MOST:
        rest = images[MOST:]
        said = f"and {len(rest)} smaller ones, {size_text(sum(each.size for each in rest))}"
        shapes.append(Text(LABEL, height - 14, said, 12))
    if not images:
        shapes.append(Text(16, TOP + 12, "There are none.", 12))
    return Picture(WIDTH, height, tuple(shapes))


def to_svg(picture: Picture) -> bytes:
    """As SVG 1.1."""
    width, height = picture.width, picture.height
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}'>",
        f"<rect width='{width}' height='{height}' fill='{WHITE}'/>",
        *map(_svg_shape, picture.shapes),
    ]
    return "\n".join([*lines, "</svg>", ""]).encode()


def to_png(picture: Picture) -> bytes:
    """As PNG, without any font of the system. UsageError where Pillow is not installed."""
    load_site_packages()
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UsageError("a PNG needs Pillow", hint="Install hpcc[plot], or name it FILE.svg.") from None
    image = Image.new("RGB", (picture.width, picture.height), WHITE)
    pen = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Box):
            corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            pen.rectangle(corners, fill=shape.colour, outline=BLACK)
        else:
            font, anchor = ImageFont.load_default(shape.size), _ENDS[shape.anchor]
            pen.text((shape.x, shape.y), _printable(shape.text), BLACK, font, anchor)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


FORMATS = {".svg": to_svg, ".png": to_png}


def _legend() -> list[Box | Text]:
    shapes: list[Box | Text] = [Text(16, 50, "Last used:", 12)]
    x = 90
    for _, colour, said in _AGES:
        shapes += [Box(x, 39, 14, 14, colour), Text(x + 20, 50, said, 12)]
        x += 36 + 8 * len(said)
    return shapes


def _bar(image: Usage, y: int, largest: int, now: float) -> list[Box | Text]:
    days = (now - image.used) / 86400
    colour = next(colour for limit, colour, _ in _AGES if days < limit)
    length = max(2, round((WIDTH - LABEL - SIDE) * image.size / largest))
    used = time.strftime("%Y-%m-%d", time.gmtime(image.used))
    return [
        Text(LABEL - 8, y + 13, _label(image), 12, "end"),
        Box(LABEL, y, length, BAR, colour, f"{image.reference} {size_text(image.size)}, last used {used}"),
        Text(LABEL + length + 6, y + 13, f"{size_text(image.size)} · {used}", 12),
    ]


def _label(image: Usage) -> str:
    """Its shortest tag, else its repository and the first digits of its digest; the end of what is too long."""
    name, _, digest = image.reference.partition("@")
    said = min(image.tags, key=len) if image.tags else f"{name}@{digest[7:15]}"
    said = said.removeprefix("docker.io/library/").removeprefix("docker.io/")
    return said if len(said) <= 44 else f"…{said[-43:]}"


def _svg_shape(shape: Box | Text) -> str:
    if isinstance(shape, Box):
        title = f"<title>{escape(_printable(shape.title))}</title>" if shape.title else ""
        place = f"x='{shape.x}' y='{shape.y}' width='{shape.width}' height='{shape.height}'"
        return f"<rect {place} fill='{shape.colour}' stroke='{BLACK}'>{title}</rect>"
    place = f"x='{shape.x}' y='{shape.y}' {_FONT} font-size='{shape.size}' text-anchor='{shape.anchor}'"
    return f"<text {place}>{escape(_printable(shape.text))}</text>"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
