"""Kernels in images, bars and tables in a real JupyterLab, looked at by Chromium.

HPCC_TEST_PICTURES=docs/pictures writes the pictures of the documentation.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.support import installation, people
from tests.support.kernels import sif_of
from tests.support.lab import picture, running_browser, running_lab, write_notebook
from tests.support.pulls import config_of, noise, tar_layer

SLOW = [tar_layer({"model": noise(6_000_000, 3)}), tar_layer({"data": noise(3_000_000, 4)})]
PLOT = """\
from IPython.display import SVG
import math
points = " ".join(f"{20 + 3 * x},{80 - 50 * math.sin(x / 10) * math.exp(-x / 80):.1f}" for x in range(120))
SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="150" id="plot"><rect width="400" height="150" '
    f'fill="white"/><polyline points="{points}" fill="none" stroke="#1565c0" stroke-width="2"/></svg>')"""
TABLE = """\
class Runs(dict):
    def _repr_html_(self):
        rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in self.items())
        return f"<table id='runs'><tr><th>sample</th><th>reads</th></tr>{rows}</table>"
Runs(liver=18342, lung=20911)"""


class Lab(NamedTuple):
    page: Any
    address: str
    directory: Path
    registry: FakeRegistry

    def open(self, name: str, kernel: str, cells: list[str]) -> None:
        """Open a new notebook, and wait for its kernel."""
        write_notebook(self.directory / name, kernel, cells)
        self.page.goto(self.address.format(name))
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.status("Idle")
        self.page.click(".jp-Notebook .jp-Cell >> nth=0")

    def status(self, wanted: str) -> None:
        """Wait until the status bar shows that the kernel is connected, and Idle or Busy."""
        self.page.locator("#jp-main-statusbar").get_by_text(f"| {wanted}").wait_for()

    def run(self) -> None:
        """The cell that is chosen, and on to the next one."""
        self.page.keyboard.press("Shift+Enter")

    def output(self, cell: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-Cell-outputArea")

    def wait_text(self, cell: int, text: str) -> None:
        self.output(cell).get_by_text(text).first.wait_for(timeout=15_000)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server and one browser for all tests here; a kernel `tools` in an image, and `host` beside hpcc."""
    pytest.importorskip("playwright")
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    installed = installation.install(("jupyter",))
    with FakeRegistry() as registry:
        registry.add_image("lab/model", "1", SLOW, config_of(SLOW))
        env = people.myself(home).environ({"HPCC_INSECURE": registry.host, "HPCC_HOLD_IDLE": "1"})
        env["JUPYTER_PATH"] = str(home / "share/jupyter")
        me = people.myself(home)
        words = ["--name", "tools", "--display-name", "Python in tools", "--prefix", home, "--compat"]
        done = me.run([installed.hpcc, "kernel", "install", *words, sif_of("ipykernel")])
        assert done.returncode == 0, done.stderr
        host = home / "share/jupyter/kernels/host/kernel.json"  # with a path: `python` would be the server's own
        host.parent.mkdir()
        argv = [str(installed.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        host.write_text(json.dumps({"argv": argv, "display_name": "Python beside hpcc", "language": "python"}))
        with running_lab(work, env) as address, running_browser(home / "profile") as page:
            yield Lab(page, address, work, registry)


def test_a_container_kernel(lab: Lab) -> None:
    """Cells, a table, a plot, the stop button, a restart."""
    cells = [
        "import os, sys; print(sys.executable, os.path.exists('/etc/debian_version'), os.getpid() < 50)",
        TABLE, PLOT, "import time; time.sleep(120)", "print('after', 6 * 7)", "print('cells' in globals())",
    ]  # fmt: skip
    lab.open("tools.ipynb", "tools", cells)
    for _ in range(3):
        lab.run()
    lab.wait_text(0, "/usr/bin/python3 True True")
    assert lab.output(1).locator("table td").all_inner_texts() == ["liver", "18342", "lung", "20911"]
    lab.output(2).locator("svg polyline, img").first.wait_for()
    picture(lab.page, "kernel.png")
    lab.run()
    lab.status("Busy")
    lab.page.click("[data-command='notebook:interrupt-kernel'], [data-jp-item-name='interrupt'] >> visible=true")
    lab.wait_text(3, "KeyboardInterrupt")
    lab.page.locator(".jp-Notebook .jp-Cell").nth(4).click()
    lab.run()
    lab.wait_text(4, "after 42")
    lab.page.click("[data-jp-item-name='restart'] >> visible=true")
    lab.page.click(".jp-Dialog .jp-mod-accept")
    lab.status("Idle")
    lab.page.locator(".jp-Notebook .jp-Cell").nth(5).click()
    lab.run()
    lab.wait_text(5, "False")


def test_a_first_pull(lab: Lab) -> None:
    """A bar while it lasts, a line when it is done, and the image as a table."""
    uri = f"docker://{lab.registry.host}/lab/model:1"
    lab.registry.faults = Faults(truncate=2, cut_at=2_000_000, delay=0.7)
    lab.open("host.ipynb", "host", [f"import hpcc\nimage = hpcc.pull('{uri}')", "image"])
    lab.run()
    bar = lab.output(0).locator("progress").first
    bar.wait_for()
    assert float(bar.get_attribute("max") or 0) > 9_000_000
    lab.page.wait_for_function("[...document.querySelectorAll('.hpcc-progress progress')].some(bar => bar.value > 0)")
    picture(lab.page, "pull.png")
    lab.wait_text(0, "Pulling: 9.0 MB in")
    assert lab.output(0).locator("progress").count() == 0
    lab.run()
    lab.output(1).locator("table").wait_for()
    assert "sha256:" in lab.output(1).inner_text()
    assert os.path.basename(uri) in lab.output(1).inner_text()
    picture(lab.page, "image.png")
