"""workflows/dask-etl, by the script and by the notebook, with workers in an image like its Containerfile's."""

import csv
import re
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support.dask import FRAMES, dask_image
from tests.support.installation import Installation, install
from tests.support.people import SYSTEM_PATH, Person

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows/dask-etl"


@pytest.fixture(scope="module")
def client() -> Installation:
    """hpcc[dask], with what data frames and notebooks need."""
    return install(("dask",), pins="dask-etl")


@pytest.fixture(scope="module")
def registry(client: Installation) -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image("lab/dask", "1", *dask_image(FRAMES, str(client.python)))
        yield registry


class Etl:
    """A person's copy of the workflow."""

    def __init__(self, person: Person, client: Installation, registry: FakeRegistry) -> None:
        self.person, self.client, self.image = person, client, f"docker://{registry.host}/lab/dask:1"
        self.directory = Path(shutil.copytree(WORKFLOW, person.home / "dask etl"))
        for path in (self.directory, *self.directory.rglob("*")):
            person.at(path)
        self.env = {"PATH": f"{client.bin}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host, "IMAGE": self.image}

    def run(self, *argv: Any) -> "subprocess.CompletedProcess[str]":
        done = self.person.run([self.client.python, *argv], env=self.env, cwd=self.directory)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def check_results(self, stations: int) -> None:
        """The same as reckoned here, without Dask, from the files that the workers have written."""
        readings: dict[tuple[str, str], list[float]] = defaultdict(list)
        for path in (self.directory / "data").glob("*.csv"):
            assert path.stat().st_uid == self.person.uid
            for row in csv.DictReader(path.open()):
                if row["celsius"] and float(row["celsius"]) != -999:
                    readings[row["station"], row["time"][:10]].append(float(row["celsius"]))
        days = list(csv.DictReader((self.directory / "results/days.csv").open()))
        assert len(days) == len(readings) == stations * 30
        for day in days:
            found = readings[day["station"], day["day"]]
            assert int(day["count"]) == len(found)
            assert float(day["mean"]) == pytest.approx(statistics.fmean(found), abs=1e-3)
            assert (float(day["min"]), float(day["max"])) == (min(found), max(found))
        assert (self.directory / "results/days.parquet").read_bytes()[:4] == b"PAR1"
        check_picture((self.directory / "results/days.svg").read_text(), stations)


def check_picture(text: str, stations: int) -> None:
    lines = ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [30] * stations


@pytest.fixture
def etl(plain_user: Person, open_dir: Path, client: Installation, registry: FakeRegistry) -> Etl:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return Etl(plain_user.at(home), client, registry)


def test_the_script(etl: Etl, registry: FakeRegistry) -> None:
    before = registry.counts["manifest_get"]
    done = etl.run("etl.py", etl.image, "--stations", "3")
    assert registry.counts["manifest_get"] == before + 1
    assert re.search(r"^0 +1[12]\.\d+ +4\d\d\d$", done.stdout, re.M) and done.stdout.endswith("results/days.svg\n")
    etl.check_results(3)


def test_the_notebook(etl: Etl) -> None:
    """Each cell, in a kernel of the client's, by nbclient; its picture is in the notebook."""
    code = (
        "import nbformat, nbclient\n"
        "book = nbformat.read('etl.ipynb', 4)\n"
        "nbclient.NotebookClient(book, timeout=120, kernel_name='python3').execute()\n"
        "nbformat.write(book, 'done.ipynb')\n"
        "shown = [o.get('data', {}) for c in book.cells for o in c.get('outputs', ())]\n"
        "[svg] = [data['image/svg+xml'] for data in shown if 'image/svg+xml' in data]\n"
        "open('shown.svg', 'w').write(svg)\n"
    )
    etl.run("-c", code)
    check_picture((etl.directory / "shown.svg").read_text(), 3)
    etl.check_results(3)
    assert "Image:" in (etl.directory / "done.ipynb").read_text()  # the cluster shows itself
