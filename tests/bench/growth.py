"""make growth: how time and memory of a cold pull grow with an image's bytes, files and layers.

    growth.py [--json PATH] [--svg PATH] [--quick]      --quick leaves out the largest of each series

Images are made here: files are pieces of one text that compresses five times, as libraries and tables do, at offsets
of their own, so that no block is another's duplicate. Each is pulled once into an empty cache, by an unprivileged user,
from a docker-registry on this machine, which takes part of its CPUs. Figures are printed beside what the issue asks
for, and never asserted.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from isal import isal_zlib

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import installation, people
from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person

TEXT = 64 << 20  # bytes
TARGETS = {"10 GB": "peak at most 300 MB", "300,000 files": "peak at most 600 MB"}


class Shape(NamedTuple):
    """An image to make: so many plain bytes in so many files, spread over so many layers."""

    series: str
    bytes: int
    files: int
    layers: int

    @property
    def name(self) -> str:
        return {
            "bytes": f"{self.bytes / 1e9:g} GB",
            "files": f"{self.files:,} files",
            "layers": f"{self.layers} layer{'s' if self.layers > 1 else ''}",
        }[self.series]


SHAPES = (
    *(Shape("bytes", size, 2000, 1) for size in (100_000_000, 300_000_000, 10**9, 3 * 10**9, 10**10)),
    *(Shape("files", 2000 * count, count, 1) for count in (1000, 3000, 10_000, 30_000, 100_000, 300_000)),
    *(Shape("layers", 250_000_000, 12_700, count) for count in (1, 4, 16, 64, 127)),
)


class Figure(NamedTuple):
    shape: Shape
    blob: int  # bytes of all layers, compressed
    seconds: float
    cpu: float
    peak: int  # bytes


def make_text() -> bytes:
    source = random.Random(1)
    words = [bytes(source.choices(b"etaoinshrdlucmfw_=().,\n", k=source.randint(3, 12))) for _ in range(800)]
    lines = [b" ".join(source.choices(words, k=9)) for _ in range(20_000)]
    out = bytearray()
    while len(out) < TEXT:
        out += source.choice(lines) + b" %d\n" % source.randrange(10**6)
    return bytes(out[:TEXT])


def make_layers(shape: Shape, text: bytes) -> list[bytes]:
    source = random.Random(shape.name)
    files = shape.files // shape.layers
    return [_layer(source, text, number, files, shape.bytes // shape.files) for number in range(shape.layers)]


def _layer(source: random.Random, text: bytes, number: int, files: int, size: int) -> bytes:
    packer, out = isal_zlib.compressobj(1, wbits=31), []
    for piece in _archive(source, text, number, files, size):
        out.append(packer.compress(piece))
    return b"".join([*out, packer.flush()])


def _archive(source: random.Random, text: bytes, number: int, files: int, size: int) -> Iterator[bytes]:
    for file in range(files):
        if file % 100 == 0:
            top = f"opt/layer{number}/package{file // 2000}/module{file // 100}"
            yield _member(top, tarfile.DIRTYPE, 0)
        length = max(1, round(size * source.uniform(0.5, 1.5)))
        yield _member(f"{top}/file_{file}.py", tarfile.REGTYPE, length)
        left = length
        while left:
            at = source.randrange(TEXT - (1 << 20))
            piece = text[at : at + min(left, 1 << 20)]
            left -= len(piece)
            yield piece
        yield bytes(-length % 512)
    yield bytes(1024)


def _member(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = kind, size, 0o755, 1_700_000_000
    return info.tobuf(tarfile.USTAR_FORMAT)


def push(registry: DockerRegistry, shape: Shape, text: bytes) -> tuple[str, int]:
    """The image's URI, and the bytes of its layers."""
    layers = make_layers(shape, text)
    diff_ids = [f"sha256:{_plain_digest(data)}" for data in layers]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    name = "growth/" + "".join(character if character.isalnum() else "-" for character in shape.name.lower())
    registry.push(name, "1", layers, config)
    return f"docker://{registry.host}/{name}:1", sum(map(len, layers))


def _plain_digest(data: bytes) -> str:
    plain, unpacker, stream = hashlib.sha256(), isal_zlib.decompressobj(wbits=31), io.BytesIO(data)
    while piece := stream.read(1 << 16):
        plain.update(unpacker.decompress(piece))
    return plain.hexdigest()


def measure(user: Person, hpcc: str, program: Path, uri: str, host: str) -> tuple[float, float, int]:
    """Seconds, CPU seconds and peak RSS in bytes of one cold pull."""
    cache, target = user.home / "cache", user.home / "out.sif"
    argv = ["/usr/bin/python3", str(program), "1", hpcc, "pull", str(target), uri]
    env = user.environ({"HPCC_INSECURE": host, "HPCC_CACHE_DIR": str(cache)})
    done = subprocess.run(user.argv(argv), env=env, cwd=user.home, capture_output=True, text=True, check=False)
    ((seconds, cpu, peak, status),) = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{uri} failed:\n{done.stderr[-2000:]}")
    target.unlink()
    shutil.rmtree(cache)
    return seconds, cpu, peak


def grow(shapes: Sequence[Shape]) -> list[Figure]:
    """Make, push and pull each."""
    text, found = make_text(), []
    top = Path(tempfile.mkdtemp(prefix="hpcc-growth-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        (top / "home").mkdir(mode=0o700)
        user = people.unprivileged(top / "home")
        if user is None:
            raise SystemExit("no unprivileged user: run tests/support/install.sh")
        program = shutil.copy(Path(__file__).with_name("measure.py"), top / "measure.py")
        hpcc = str(installation.install(("compress",)).hpcc)
        for shape in shapes:
            (storage := top / "registry").mkdir()
            with DockerRegistry(storage) as registry:
                uri, blob = push(registry, shape, text)
                figure = Figure(shape, blob, *measure(user.at(top / "home"), hpcc, program, uri, registry.host))
            shutil.rmtree(storage)
            found.append(figure)
            print(
                f"{shape.name:>15} {blob / 1e6:>8.0f} MB sent {figure.seconds:>7.2f} s {figure.cpu:>7.2f} s cpu"
                f" {figure.peak / 1e6:>6.0f} MB peak   {TARGETS.get(shape.name, '')}",
                flush=True,
            )
    finally:
        shutil.rmtree(top, ignore_errors=True)
    return found


# -- the picture -------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, PLOT, GAP, LEFT, TOP = 980, 330, 250, 70, 60, 46  # pixels
AXES = {"bytes": "GB unpacked", "files": "files", "layers": "layers"}


def draw(figures: Sequence[Figure]) -> str:
    """An SVG: three plots beside each other, both axes logarithmic; seconds as a line, peak memory dashed."""
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
        " font-family='DejaVu Sans, Arial, sans-serif' font-size='12'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        f"<text x='{LEFT}' y='22' font-size='14'>A cold pull: seconds (line), peak memory in 100 MB (dashed)</text>",
    ]
    for number, series in enumerate(AXES):
        chosen = [each for each in figures if each.shape.series == series]
        out += _plot(LEFT + number * (PLOT + GAP), series, chosen) if len(chosen) > 1 else []
    return "\n".join([*out, "</svg>", ""])


def _plot(left: int, series: str, figures: Sequence[Figure]) -> list[str]:
    xs = [getattr(each.shape, series) / (1e9 if series == "bytes" else 1) for each in figures]
    lines = {"": [each.seconds for each in figures], "6 4": [each.peak / 1e8 for each in figures]}
    low, high = floor(log10(min(map(min, lines.values())))), ceil(log10(max(map(max, lines.values()))))
    span = log10(xs[-1] / xs[0])

    def at(x: float, y: float) -> tuple[float, float]:
        return left + PLOT * log10(x / xs[0]) / span, TOP + PLOT * 0.9 * (high - log10(y)) / (high - low)

    bottom = at(xs[0], 10.0**low)[1]
    out = [f"<path d='M{left} {TOP}V{bottom:.1f}H{left + PLOT}' fill='none' stroke='#000'/>"]
    for power in range(low, high + 1):
        y = at(xs[0], 10.0**power)[1]
        out.append(f"<path d='M{left} {y:.1f}h{PLOT}' stroke='#ddd'/>")
        out.append(f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{10.0**power:g}</text>")
    for x in xs:
        out.append(f"<text x='{at(x, 1)[0]:.1f}' y='{bottom + 16:.1f}' text-anchor='middle'>{_short(x)}</text>")
    for dashes, ys in lines.items():
        points = [at(x, y) for x, y in zip(xs, ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f"<polyline points='{path}' fill='none' stroke='#000' stroke-dasharray='{dashes}'/>")
        out += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3'/>" for x, y in points]
    return [*out, f"<text x='{left + PLOT / 2}' y='{bottom + 34:.1f}' text-anchor='middle'>{AXES[series]}</text>"]


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="PATH", help="write all figures there")
    parser.add_argument("--svg", metavar="PATH", help="draw them there")
    parser.add_argument("--quick", action="store_true", help="without the largest of each series")
    options = parser.parse_args(argv)
    largest = {series: max(getattr(each, series) for each in SHAPES if each.series == series) for series in AXES}
    shapes = [each for each in SHAPES if not options.quick or getattr(each, each.series) < largest[each.series]]
    figures = grow(shapes)
    if options.json:
        values: list[dict[str, Any]] = [{**each._asdict(), "shape": each.shape._asdict()} for each in figures]
        Path(options.json).write_text(json.dumps(values, indent=1) + "\n")
    if options.svg:
        Path(options.svg).write_text(draw(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
