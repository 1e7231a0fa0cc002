"""hpcc cache stats: sizes, tags, users and what is shared, from what is there anyway; and the picture of it."""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hpcc.cache.layout import Cache
from hpcc.cli.cache.picture import LABEL, MOST, ROW, TOP, Box, draw, to_png, to_svg
from hpcc.errors import UsageError
from hpcc.registry.fake import FakeRegistry
from hpcc.stats import Usage, read_stats
from tests.support.pulls import LAYERS, NAME, config_of, pull, tar_layer

pytestmark = pytest.mark.usefixtures("hpcc_env")


def test_what_is_counted(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    registry = fake(index=True)
    more = [LAYERS[0], tar_layer({"t": b"text"})]
    registry.add_image(NAME, "2", more, config_of(more))
    big = pull(registry, hpcc_env)
    pull(registry, hpcc_env, tag="2")
    cache = Cache(str(hpcc_env / "cache"))
    stats = read_stats([cache])
    name = f"{registry.host}/{NAME}"
    assert [(each.reference, each.tags) for each in stats.images] == [
        (big.reference, (f"{name}:1",)),
        (stats.images[1].reference, (f"{name}:2",)),
    ]
    assert stats.images[0].layers == sum(map(len, LAYERS)) and stats.tags == 2
    assert stats.layers - stats.different_layers == len(LAYERS[0])
    assert 0 < stats.shared < 1
    assert {each.kind: each.objects for each in stats.kinds} == {"sif": 2, "blob": 3 + 2 + 3, "pack": 3}
    assert (stats.hours, stats.saved_pulls, stats.saved_bytes) == (0, 0, 0)


def test_hours_and_users(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    """One byte for each hour but the first; a second run within the hour writes nothing."""
    image = pull(fake(), hpcc_env)
    cache = Cache(str(hpcc_env / "cache"))
    use = hpcc_env / "cache/uses" / image.key / str(os.getuid())
    for hour in range(3):
        for _ in range(2):
            cache.touch_use(image.key)
        assert use.stat().st_size == hour and time.time() - use.stat().st_mtime < 60
        os.utime(use, (0, time.time() - 4000))
    assert (read_stats([cache]).hours, read_stats([cache]).saved_pulls) == (3, 0)
    if os.geteuid() == 0:
        other = use.with_name("4242")
        other.write_bytes(b".")
        os.chown(other, 4242, 4242)
        stats = read_stats([cache])
        assert (stats.hours, stats.saved_pulls, stats.images[0].users) == (5, 1, 2)
        assert stats.saved_bytes == stats.images[0].layers


def test_nothing_is_written_into_what_somebody_linked_there(hpcc_env: Path) -> None:
    """A hard link, or a symbolic one, in the place of one's own use, to a file that is none."""
    cache = Cache(str(hpcc_env / "cache"))
    directory = Path(cache.make_directory("uses", "k"))
    precious = hpcc_env / "cache/precious"
    for link in (os.link, os.symlink):
        precious.write_bytes(b"x")
        os.utime(precious, (0, 0))
        link(precious, directory / str(os.getuid()))
        cache.touch_use("k")
        assert precious.read_bytes() == b"x"
        (directory / str(os.getuid())).unlink()


def test_damage_and_emptiness(fake: Callable[..., FakeRegistry], hpcc_env: Path) -> None:
    cache = Cache(str(hpcc_env / "cache"))
    assert read_stats([cache]).images == () and read_stats([cache]).shared == 0
    pull(fake(), hpcc_env)
    for path in (hpcc_env / "cache/oci/blobs/sha256").iterdir():
        path.unlink()
    (stats,) = read_stats([cache]).images
    assert stats.layers == 0
    for path in (hpcc_env / "cache/sif-v1").iterdir():
        path.chmod(0o644)
        path.write_bytes(b"?")
    assert read_stats([cache]).images == ()


def test_the_picture() -> None:
    """XML whatever images are called, as tall as there are bars; nothing leaves its edges."""
    now = time.time()
    odd = Usage(
        "h.example/a@sha256:00", ("h.example/<&'\">\x07/" + "n" * 300 + ":1",), "/c", 1 << 40, 0, now, now, 1, 1
    )
    for images in ([], [odd], [odd._replace(size=size) for size in range(200, 0, -1)]):
        picture = draw(images, now)
        top = ElementTree.fromstring(to_svg(picture))
        space = "{http://www.w3.org/2000/svg}"
        assert len(top.findall(f"{space}rect/{space}title")) == min(len(images), MOST)
        width, height = int(top.attrib["width"]), int(top.attrib["height"])
        for bar in top.iter(f"{space}rect"):
            assert int(bar.get("x", "0")) + int(bar.attrib["width"]) <= width
            assert int(bar.get("y", "0")) + int(bar.attrib["height"]) <= height


def test_the_picture_as_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bars in the same places, and text beside them."""
    from PIL import Image

    now = time.time()
    used = Usage("h.example/a@sha256:00", ("h.example/a:1",), "/c", 1 << 30, 0, now, now, 1, 1)
    picture = draw([used, used._replace(size=1 << 29, used=now - 90 * 86400)], now)
    with Image.open(io.BytesIO(to_png(picture))) as image:
        assert image.format == "PNG" and image.size == (picture.width, picture.height)
        for bar in (shape for shape in picture.shapes if isinstance(shape, Box)):
            middle = image.getpixel((bar.x + bar.width // 2, bar.y + bar.height // 2))
            assert "#{:02x}{:02x}{:02x}".format(*middle) == bar.colour
        left = image.crop((0, TOP, LABEL - 4, TOP + ROW)).convert("L")
        assert left.getextrema() == (0, 255)  # the label, black on white

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match="Pillow") as caught:
        to_png(picture)
    assert "hpcc[plot]" in caught.value.hint
