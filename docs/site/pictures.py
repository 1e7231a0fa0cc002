"""make pictures: how the program looks, as SVG of real runs at a terminal of 80 columns, and the page that shows them.

    python docs/site/pictures.py DIR        DIR/picture-*.svg, and the part of DIR/pictures.md below its first paragraph

Registries are one fake. Everything runs as an unprivileged user with a home of its own.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from hpcc.cli.demo_image import build_demo_layers  # noqa: E402
from hpcc.registry.fake import FakeRegistry  # noqa: E402
from tests.support import installation, people  # noqa: E402
from tests.support.pulls import ARCHITECTURE  # noqa: E402
from tests.support.terminal import on_terminal  # noqa: E402

# fonts of the reader's, none of the network
_SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S).replace("Fira Code", "DejaVu Sans Mono")
_PIECE = re.compile(r"\r|\n|\x1b\[(\d*)A|\x1b\[\d*K|\x1b\[\?\d+[hl]|\x1b\[[\d;]*m|[^\r\n\x1b]+")


class Picture(NamedTuple):
    """`middle`: of what lasts, as it looks on its way rather than at its end."""

    name: str
    about: str
    command: str
    middle: bool = False


PICTURES = (
    Picture("doctor", "Can this host run containers, and how?", "hpcc doctor"),
    Picture("pull", "A pull, on its way.", "hpcc pull tools.sif docker://quay.io/lab/tools:1.4", middle=True),
    Picture("list", "What the cache has.", "hpcc cache list -v --type sif"),
    Picture("stats", "What takes the room.", "hpcc cache stats"),
    Picture("why", "What a run would do, and why.", "hpcc cache why docker://debian:12"),
    Picture("limits", "How many pulls are left.", "hpcc limits"),
    Picture("lock", "Which digests are pinned.", "hpcc lock docker://debian:12 docker://quay.io/lab/tools:1.4"),
    Picture("command", "A command that is not in the image.", "hpcc exec docker://debian:12 samtools"),
    Picture("option", "A mistake.", "hpcc exec --bnd /data docker://debian:12 true"),
    Picture("quota", "The quota is spent, and the cache has nothing.", "hpcc exec docker://busybox true"),
)


def screens(output: str) -> list[str]:
    """What stood on the screen after each piece of output that moved up: for bars, each state; the last is the end."""
    lines, row, found = [""], 0, []
    for piece in _PIECE.finditer(output):
        text = piece[0]
        if text == "\r":
            pass
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text.endswith("A") and text.startswith("\x1b"):
            if row == len(lines) - 1:
                found.append("\n".join(lines))
            row = max(0, row - int(piece[1] or 1))
        elif text.endswith("K") and text.startswith("\x1b"):
            lines[row] = ""
        elif not text.startswith("\x1b[?"):
            lines[row] += text
    return [*found, "\n".join(lines)]


def half(found: list[str]) -> str:
    """The state whose first percentage is nearest to 50."""
    shown = [(abs(int(m[1]) - 50), screen) for screen in found if (m := re.search(r"(\d+)%", screen))]
    return min(shown, key=lambda pair: pair[0])[1]


def render(command: str, screen: str) -> str:
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"$ {command}\n{screen.rstrip()}"))
    return console.export_svg(
        title="hpcc", code_format=_SVG, unique_id="p" + hashlib.sha256(command.encode()).hexdigest()[:8]
    )


def fill(registry: FakeRegistry) -> None:
    base = build_demo_layers().layers[:2]
    for name, tag, layers in (
        ("library/debian", "12", base),
        ("library/python", "3.12", base),
        ("lab/tools", "1.4", (*base, _layer(60), _layer(90))),
        ("ratelimitpreview/test", "latest", base[:1]),
        ("library/busybox", "latest", base[:1]),
    ):
        ids = [f"sha256:{hashlib.sha256(gzip.decompress(each)).hexdigest()}" for each in layers]
        config = {"architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": ["bash"]},
                  "rootfs": {"type": "layers", "diff_ids": ids}}  # fmt: skip
        registry.add_image(name, tag, layers, config)


def _layer(size: int) -> bytes:
    """So many MB that do not compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"opt/data-{size}")
        info.size = size * 10**6
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    return gzip.compress(buffer.getvalue(), 1)


def main(directory: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="ann-", dir="/var/tmp"))
    try:
        person = people.unprivileged(home)
        if person is None:
            raise SystemExit("no unprivileged user: run tests/support/install.sh")
        person = person.at(home)
        hpcc = installation.install(("compress",))
        with FakeRegistry(quota=100) as registry:
            fill(registry)
            env = {"PATH": f"{hpcc.bin}:{people.SYSTEM_PATH}", "TERM": "xterm-256color", "HPCC_NOHTTPS": "1"}
            env |= {"http_proxy": registry.url} | dict.fromkeys(("no_proxy", "NO_PROXY"), "none.example")
            for image in ("debian:12", "python:3.12"):
                person.run([hpcc.hpcc, "exec", f"docker://{image}", "true"], env=env)
            page = []
            for each in PICTURES:
                if each.name == "quota":
                    registry.quota = 0
                    person.run([hpcc.hpcc, "cache", "clean"], env=env)
                _, output = on_terminal(person, ["sh", "-c", each.command], [], env=env, timeout=120)
                found = screens(output.decode(errors="replace").replace("\r\n", "\n"))
                screen = (half(found) if each.middle else found[-1]).replace(str(home), "/home/ann")
                (directory / f"picture-{each.name}.svg").write_text(render(each.command, screen))
                page.append(f"## {each.about}\n\n![{each.command}](picture-{each.name}.svg)\n")
        text = (directory / "pictures.md").read_text()
        (directory / "pictures.md").write_text("\n".join([text.partition("\n## ")[0].rstrip() + "\n", *page]))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
