"""Man pages, the reference and figures, as `make docs` and `make bench` make them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpcc.settings import KEYS
from tests.support.real import need

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "docs/site/man.py", directory], check=True, stdout=subprocess.DEVNULL)
    return directory


def test_man_pages_are_clean(man: Path) -> None:
    pages = sorted(man.glob("*.1"))
    assert len(pages) > 70
    said = subprocess.run([str(need("mandoc")), "-Tlint", "-Wwarning", *pages], capture_output=True, text=True).stdout
    # there is no date in them, since the same tree is to give the same bytes
    assert [line for line in said.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(
        [str(need("mandoc")), "-Tutf8", man / "hpcc-cache-gc.1"], capture_output=True, text=True
    ).stdout
    shown = re.sub(r".\x08", "", shown)
    assert "--max-size SIZE" in shown and "hpcc cache gc --days" in shown and "hpcc-cache(1)" in shown.replace(" ", "")


def test_reference_is_of_the_code() -> None:
    sys.path.insert(0, str(ROOT / "docs/site"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    pages = reference.pages()
    assert all(f"\n## {name}\n" in pages["settings"] for name in KEYS)
    assert "### pull\n" in pages["python"] and "Image.run(" in pages["python"] and "### submit\n" in pages["python"]
    assert "| `RateLimited` | 75 |" in pages["exit-codes"] and "sif-v1/<key>.sif" in pages["cache"]
    assert "## hpcc cache gc\n" in pages["cli"] and "## hpcc slurm sbatch\n" in pages["cli-integrations"]


def test_figures_are_drawn_of_figures() -> None:
    from tests.bench.plots import draw

    rows = [
        {"what": "pull x: seconds", "hpcc": 1.0, "apptainer": 4.0},
        {"what": "exec: ms", "hpcc": 5.0, "apptainer": None},
    ]
    drawn = draw(rows)
    assert re.findall(r"width='(\d+)' height='13'", drawn) == ["105", "420"] and ">pull x<" in drawn
    assert "milliseconds" not in drawn  # a row without both figures is none
